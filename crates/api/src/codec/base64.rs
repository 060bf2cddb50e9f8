//! Byte fields: base64 as Go's `encoding/base64` reads it, printed canonically.

use ::base64::Engine;
use ::base64::alphabet::STANDARD;
use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ::base64::{DecodeError, DecodeSliceError};

/// Go tolerates non-zero trailing bits and demands padding.
const GO: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The canonical form of base64 text (line breaks removed), or Go's error.
pub(super) fn canonical(text: String) -> Result<String, String> {
    let text = if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "") } else { text };
    let mut buffer = vec![0; text.len() / 4 * 3 + 3];
    match GO.decode_slice(&text, &mut buffer) {
        // Trailing bits are the only freedom, and only the last group has them.
        Ok(_) if !text.ends_with('=') => Ok(text),
        Ok(n) => Ok(GO.encode(&buffer[..n])),
        Err(error) => Err(format!("illegal base64 data at input byte {}", offset(&text, &error))),
    }
}

pub(super) fn encode(bytes: &[u8]) -> String {
    GO.encode(bytes)
}

fn offset(text: &str, error: &DecodeSliceError) -> usize {
    match error {
        DecodeSliceError::DecodeError(DecodeError::InvalidByte(at, b'=')) => padding_fault(text.as_bytes(), *at),
        DecodeSliceError::DecodeError(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => *at,
        // Go points at the end of the data or at the group that lacks characters.
        DecodeSliceError::DecodeError(DecodeError::InvalidLength(_) | DecodeError::InvalidPadding) => {
            let body = text.trim_end_matches('=').len();
            if body == text.len() { body / 4 * 4 } else { text.len() }
        }
        DecodeSliceError::OutputSliceTooSmall => text.len(),
    }
}

/// Go reads on to the end of the padding at `at`, and points at what follows it.
fn padding_fault(text: &[u8], at: usize) -> usize {
    match (at % 4, text.get(at + 1)) {
        (2, None) => text.len(),
        (2, Some(b'=')) => at + 2,
        (3, _) => at + 1,
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn what_follows_the_padding_is_at_fault() {
        let fault = |text: &str| canonical(text.to_owned()).expect_err(text);
        for (text, at) in [("ZA==z", 4), ("ZA=z", 2), ("ZGQ=z", 4), ("=ZGQ", 0), ("Z===", 1)] {
            assert_eq!(fault(text), format!("illegal base64 data at input byte {at}"), "{text}");
        }
    }
}
