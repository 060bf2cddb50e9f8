//! generateName.

use rand::Rng as _;

/// Letters and digits that cannot spell words or be misread, as upstream's.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
/// Bytes a generated name has at most.
const NAME_BYTES_MAX: usize = 63;

/// `base` plus a random suffix, within the length of a DNS label.
pub(super) fn generate(base: &str) -> String {
    let mut cut = base.len().min(NAME_BYTES_MAX - SUFFIX_LEN);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{}", &base[..cut], suffix())
}

/// Random characters for generated names.
pub(crate) fn suffix() -> String {
    let mut rng = rand::rng();
    (0..SUFFIX_LEN).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_names_keep_the_base_within_a_label() {
        let name = super::generate("web-");
        assert_eq!((name.len(), &name[..4]), (9, "web-"));
        assert_eq!(super::generate(&"x".repeat(200)).len(), 63);
    }
}
