//! SPDY/3.1 framing, as far as streams of exec, attach and port-forward use it, for either side.
//!
//! A frame is 8 bytes of head and a body. Control: `0x8003`, type (2), flags (1), length (3). Data: stream (4, top bit 0), flags
//! (1), length (3). Headers are name-value pairs, zlib-compressed over the whole connection with a dictionary both sides know.

use flate2::{Decompress, FlushDecompress};

/// Bytes of one frame's body; upstream's peers send at most 64 KiB of data.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of one header block, unpacked.
const HEADER_BYTES_MAX: usize = 64 << 10;
const HEAD: usize = 8;
/// Adler-32 of the dictionary: its name in the zlib header.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];
/// A stored block holds at most this.
const STORED_BYTES_MAX: usize = 65_535;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// What the other side said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Opened {
        stream: u32,
        headers: Vec<(String, String)>,
    },
    Data {
        stream: u32,
        data: Vec<u8>,
        last: bool,
    },
    Reset {
        stream: u32,
    },
    /// The other side's sign of life is to be sent back as it is; one's own comes back.
    Ping {
        id: u32,
        frame: Vec<u8>,
    },
    Goodbye,
}

/// The other side does not speak SPDY/3.1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SPDY/3.1 frame: {0}")]
pub struct NotSpdy(&'static str);

/// Bytes in, events out.
pub struct Decoder {
    pending: Vec<u8>,
    headers: Decompress,
    primed: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { pending: Vec::new(), headers: Decompress::new(false), primed: false }
    }
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next event; `None` until more bytes come.
    pub fn next_event(&mut self) -> Result<Option<Event>, NotSpdy> {
        loop {
            let Some(head) = self.pending.get(..HEAD) else { return Ok(None) };
            let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
            if length > BODY_BYTES_MAX {
                return Err(NotSpdy("frame too long"));
            }
            if self.pending.len() < HEAD + length {
                return Ok(None);
            }
            let frame: Vec<u8> = self.pending.drain(..HEAD + length).collect();
            if let Some(event) = self.event(frame)? {
                return Ok(Some(event));
            }
        }
    }

    /// `None` for frames that mean nothing here (settings, window updates).
    fn event(&mut self, frame: Vec<u8>) -> Result<Option<Event>, NotSpdy> {
        let body = &frame[HEAD..];
        let number =
            |at: usize| body.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) & 0x7fff_ffff);
        let short = NotSpdy("frame too short");
        if frame[0] & 0x80 == 0 {
            let stream = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
            return Ok(Some(Event::Data { stream, data: body.to_vec(), last: frame[4] & FIN != 0 }));
        }
        if frame[..2] != [0x80, 3] {
            return Err(NotSpdy("unknown version"));
        }
        Ok(match u16::from_be_bytes([frame[2], frame[3]]) {
            SYN_STREAM => {
                let stream = number(0).ok_or(short)?;
                let block = body.get(10..).ok_or(NotSpdy("frame too short"))?.to_vec();
                Some(Event::Opened { stream, headers: self.unpack(&block)? })
            }
            RST_STREAM => Some(Event::Reset { stream: number(0).ok_or(short)? }),
            PING => Some(Event::Ping { id: number(0).ok_or(short)?, frame }),
            GOAWAY => Some(Event::Goodbye),
            _ => None,
        })
    }

    fn unpack(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, NotSpdy> {
        let mut input = block;
        if !self.primed {
            // The zlib header, which names the dictionary, is followed by plain deflate. A stored block puts the dictionary
            // into its window.
            if block.get(2..6) != Some(&DICTIONARY_ID[..]) {
                return Err(NotSpdy("unknown dictionary"));
            }
            input = &block[6..];
            self.inflate(&stored(&dictionary()))?;
            self.primed = true;
        }
        let plain = self.inflate(input)?;
        pairs(&plain).ok_or(NotSpdy("malformed headers"))
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, NotSpdy> {
        let mut out = Vec::with_capacity(4096);
        loop {
            let (read, written) = (self.headers.total_in(), out.len());
            let done = self.headers.decompress_vec(input, &mut out, FlushDecompress::Sync);
            done.map_err(|_| NotSpdy("malformed compression"))?;
            let consumed = usize::try_from(self.headers.total_in() - read).unwrap_or(usize::MAX);
            input = input.get(consumed..).unwrap_or_default();
            if out.len() > HEADER_BYTES_MAX {
                return Err(NotSpdy("headers too long"));
            }
            if out.len() == out.capacity() {
                out.reserve(4096);
            } else if input.is_empty() || (consumed == 0 && out.len() == written) {
                return Ok(out);
            }
        }
    }
}

/// Count, then length and text of each name and value, all in 4 bytes.
fn pairs(plain: &[u8]) -> Option<Vec<(String, String)>> {
    let mut rest = plain;
    let number = |rest: &mut &[u8]| {
        let (bytes, after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        usize::try_from(u32::from_be_bytes(*bytes)).ok()
    };
    let count = number(&mut rest)?;
    let mut out = Vec::new();
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut rest)?;
            let text = rest.get(..length)?;
            rest = &rest[length..];
            Some(String::from_utf8_lossy(text).into_owned())
        };
        out.push((text()?, text()?));
    }
    Some(out)
}

/// The frames of this side.
#[derive(Debug, Default)]
pub struct Encoder {
    greeted: bool,
}

impl Encoder {
    /// Opens a stream. Names are lower case; all together they are at most 64 KiB.
    pub fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        let mut plain = number(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&number(text.len()));
            plain.extend_from_slice(text.as_bytes());
        }
        let mut body = stream.to_be_bytes().to_vec();
        // Belongs to no other stream, highest priority, no credentials.
        body.extend_from_slice(&[0; 6]);
        self.pack(&mut body, &plain);
        control(SYN_STREAM, &body)
    }

    /// Accepts a stream, without headers.
    pub fn reply(&mut self, stream: u32) -> Vec<u8> {
        let mut body = stream.to_be_bytes().to_vec();
        self.pack(&mut body, &0_u32.to_be_bytes());
        control(SYN_REPLY, &body)
    }

    /// A sign of life. Who opened the connection counts in odd numbers; the other side sends the frame back.
    pub fn ping(&self, id: u32) -> Vec<u8> {
        control(PING, &id.to_be_bytes())
    }

    fn pack(&mut self, body: &mut Vec<u8>, plain: &[u8]) {
        if !self.greeted {
            body.extend_from_slice(&[0x78, 0xbb]);
            body.extend_from_slice(&DICTIONARY_ID);
            self.greeted = true;
        }
        // The empty block at the end is zlib's sync flush: without it Go's reader waits for more, and takes the end of
        // the frame for the end of all compression.
        body.extend(stored(plain));
        body.extend(stored(&[]));
    }

    pub fn data(&self, stream: u32, data: &[u8], last: bool) -> Vec<u8> {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.push(if last { FIN } else { 0 });
        frame.extend_from_slice(&length(data.len()));
        frame.extend_from_slice(data);
        frame
    }
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.push(0);
    frame.extend_from_slice(&length(body.len()));
    frame.extend_from_slice(body);
    frame
}

fn length(bytes: usize) -> [u8; 3] {
    let [_, a, b, c] = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c]
}

/// Deflate without compression, and more to follow.
fn stored(data: &[u8]) -> Vec<u8> {
    debug_assert!(data.len() <= STORED_BYTES_MAX);
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    let mut out = vec![0];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(data);
    out
}

/// The dictionary of SPDY/3: names and values that headers often have, each with its length, and then more text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,\
        accept-ranges,age,allow,authorization,cache-control,connection,content-base,content-encoding,content-language,\
        content-length,content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,\
        if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,\
        proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,upgrade,\
        user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,set-cookie,\
        keep-alive,origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
        404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
        Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
        application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
        charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::new();
    for word in WORDS.split(',') {
        out.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TEXT.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adler32(data: &[u8]) -> u32 {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in data {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_with_that_name() {
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(adler32(&dictionary()).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        let mut decoder = Decoder::default();
        let frame = Encoder::default().open(5, &[("streamtype", "data"), ("port", "80")]);
        decoder.push(&frame[..20]);
        assert_eq!(decoder.next_event(), Ok(None));
        decoder.push(&frame[20..]);
        let want = vec![("streamtype".to_owned(), "data".to_owned()), ("port".to_owned(), "80".to_owned())];
        assert_eq!(decoder.next_event(), Ok(Some(Event::Opened { stream: 5, headers: want })));
        // A match in the dictionary: distance 1423, length 11 is its first word with its length.
        let mut inflater = Decoder::default();
        inflater.inflate(&stored(&dictionary())).expect("the dictionary");
        assert_eq!(inflater.inflate(&stored(b"abc")), Ok(b"abc".to_vec()));
    }

    #[test]
    fn every_reply_ends_with_a_sync_flush() {
        let mut encoder = Encoder::default();
        let replies = [encoder.reply(1), encoder.reply(3)];
        assert_eq!(replies.each_ref().map(Vec::len), [8 + 4 + 6 + 9 + 5, 8 + 4 + 9 + 5]);
        assert!(replies.iter().all(|frame| frame.ends_with(&[0, 0, 0, 0xff, 0xff])));
    }

    #[test]
    fn a_ping_comes_back_with_its_number() {
        let mut decoder = Decoder::default();
        let frame = Encoder::default().ping(7);
        decoder.push(&frame);
        assert_eq!(decoder.next_event(), Ok(Some(Event::Ping { id: 7, frame })));
    }

    #[test]
    fn data_is_read_as_it_was_written_and_nonsense_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&Encoder::default().data(3, b"hello", true));
        assert_eq!(decoder.next_event(), Ok(Some(Event::Data { stream: 3, data: b"hello".to_vec(), last: true })));
        decoder.push(b"\x80\x02GET / HTTP");
        assert!(decoder.next_event().is_err());
    }
}
