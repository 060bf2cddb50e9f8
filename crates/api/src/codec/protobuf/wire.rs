//! The protobuf wire format: tags, varints and lengths, with the errors of Go's generated readers.

/// Go's text of what is wrong with the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WireError(pub(super) String);

pub(super) type Result<T> = std::result::Result<T, WireError>;

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
const START_GROUP: u8 = 3;
const END_GROUP: u8 = 4;
const FIXED32: u8 = 5;

/// A field as it begins: its number and how its value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) number: u32,
    pub(super) wire_type: u8,
}

impl Tag {
    pub(super) fn expect(self, wire_type: u8, field: impl FnOnce() -> String) -> Result<()> {
        if self.wire_type == wire_type {
            return Ok(());
        }
        Err(WireError(format!("proto: wrong wireType = {} for field {}", self.wire_type, field())))
    }
}

/// A cursor over one message.
pub(super) struct Wire<'b> {
    bytes: &'b [u8],
}

impl<'b> Wire<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next field of `message`; `None` at its end.
    pub(super) fn tag(&mut self, message: &str) -> Result<Option<Tag>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let (number, wire_type) = ((key >> 3) as i32, (key & 7) as u8);
        if wire_type == END_GROUP {
            return Err(WireError(format!("proto: {message}: wiretype end group for non-group")));
        }
        match u32::try_from(number) {
            Ok(number) if number > 0 => Ok(Some(Tag { number, wire_type })),
            _ => Err(WireError(format!("proto: {message}: illegal tag {number} (wire type {key})"))),
        }
    }

    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            if shift >= 64 {
                return Err(WireError("proto: integer overflow".into()));
            }
            let (&byte, rest) = self.bytes.split_first().ok_or_else(unexpected_eof)?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    pub(super) fn length_delimited(&mut self) -> Result<&'b [u8]> {
        let length = self.varint()?;
        let length = i64::try_from(length).map_err(|_| invalid_length())?;
        self.take(usize::try_from(length).map_err(|_| unexpected_eof())?)
    }

    pub(super) fn fixed64(&mut self) -> Result<[u8; 8]> {
        let bytes = self.take(8)?;
        bytes.try_into().map_err(|_| unexpected_eof())
    }

    /// Steps over the value of an unknown field.
    pub(super) fn skip(&mut self, tag: Tag) -> Result<()> {
        let mut groups = 0usize;
        let mut wire_type = tag.wire_type;
        loop {
            match wire_type {
                VARINT => drop(self.varint()?),
                FIXED64 => drop(self.take(8)?),
                BYTES => drop(self.length_delimited()?),
                START_GROUP => groups += 1,
                END_GROUP => {
                    groups = groups.checked_sub(1).ok_or_else(|| WireError("proto: unexpected end of group".into()))?;
                }
                FIXED32 => drop(self.take(4)?),
                other => return Err(WireError(format!("proto: illegal wireType {other}"))),
            }
            if groups == 0 {
                return Ok(());
            }
            wire_type = (self.varint()? & 7) as u8;
        }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or_else(unexpected_eof)?;
        self.bytes = rest;
        Ok(taken)
    }
}

fn unexpected_eof() -> WireError {
    WireError("unexpected EOF".into())
}

fn invalid_length() -> WireError {
    WireError("proto: negative length found during unmarshaling".into())
}

/// Appends to a message.
pub(super) trait WireWrite {
    fn put_varint(&mut self, value: u64);
    fn put_tag(&mut self, number: u32, wire_type: u8);
    fn put_bytes(&mut self, number: u32, bytes: &[u8]);
    fn put_integer(&mut self, number: u32, value: i64);
}

impl WireWrite for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_tag(&mut self, number: u32, wire_type: u8) {
        self.put_varint((u64::from(number) << 3) | u64::from(wire_type));
    }

    fn put_bytes(&mut self, number: u32, bytes: &[u8]) {
        self.put_tag(number, BYTES);
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }

    /// Negative numbers take ten bytes, as in Go.
    fn put_integer(&mut self, number: u32, value: i64) {
        self.put_tag(number, VARINT);
        self.put_varint(value as u64);
    }
}

/// Appends a message whose length is known only once it is written.
pub(super) fn put_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    out.put_tag(number, BYTES);
    let start = out.len();
    write(out);
    let end = out.len();
    out.put_varint((end - start) as u64);
    let prefix = out.len() - end;
    out[start..].rotate_right(prefix);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_longer_than_ten_bytes_overflow() {
        assert_eq!(Wire::new(&[0xff; 11]).varint(), Err(WireError("proto: integer overflow".into())));
        assert_eq!(Wire::new(&[0xff; 3]).varint(), Err(WireError("unexpected EOF".into())));
        let mut out = Vec::new();
        out.put_varint(u64::MAX);
        assert_eq!(Wire::new(&out).varint(), Ok(u64::MAX));
    }

    #[test]
    fn groups_are_stepped_over_and_must_be_balanced() {
        let group = |bytes: &[u8]| {
            let mut wire = Wire::new(bytes);
            wire.skip(Tag { number: 1, wire_type: START_GROUP }).map(|()| wire.is_empty())
        };
        assert_eq!(group(&[0x13, 0x08, 0x01, 0x14, 0x0c]), Ok(true));
        assert_eq!(group(&[0x13, 0x14]), Err(WireError("unexpected EOF".into())));
        assert_eq!(group(&[0x0f]), Err(WireError("proto: illegal wireType 7".into())));
    }

    #[test]
    fn lengths_beyond_the_message_are_refused() {
        assert_eq!(Wire::new(&[0x05, 1]).length_delimited(), Err(WireError("unexpected EOF".into())));
        let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Wire::new(&negative).length_delimited(), Err(invalid_length()));
    }
}
