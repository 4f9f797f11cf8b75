//! Whatever is in a file of the journal, reading it ends, and never panics.

use std::io::Write as _;

use remora::store::DataDir;
use remora::store::journal::{Journal, Segment};

const MAGIC: &[u8] = b"remoraj1";
const MARK: &[u8] = b"\x01\x02\x03\x04\x05\x06\x07\x08";

/// The first byte chooses what the rest is: a segment as it is; entries' contents, of which each gets a head that is
/// right; or what was kept of an exchange under way.
pub fn holds(input: &[u8]) {
    let Some((how, rest)) = input.split_first() else { return };
    match how % 3 {
        0 => segment(rest),
        1 => segment(&framed(rest, MARK, &[MAGIC, MARK].concat())),
        _ => {
            open(rest);
            open(&framed(rest, &[0; 8], &[]));
        }
    }
}

/// Cuts `contents` where its pieces' first two bytes say, and gives each a mark, its length and its checksum.
fn framed(mut contents: &[u8], mark: &[u8], head: &[u8]) -> Vec<u8> {
    let mut out = head.to_vec();
    while let Some((length, rest)) = contents.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (entry, after) = rest.split_at(length);
        out.extend_from_slice(mark);
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(entry).to_le_bytes());
        out.extend_from_slice(entry);
        contents = after;
    }
    out
}

fn segment(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("written");
    let segment = Segment { path: file.path().to_owned(), number: 1 };
    for over in [false, true] {
        let (mut offset, mut read, mut damaged) = (0, 0, 0);
        // As the settler does: until nothing comes any more.
        while let Ok(batch) = segment.read(offset, over) {
            damaged += batch.damaged;
            assert!(damaged <= bytes.len() as u64);
            if batch.exchanges.is_empty() {
                break;
            }
            assert!(batch.offset > offset && batch.offset <= bytes.len() as u64, "it goes on");
            offset = batch.offset;
            read += batch.exchanges.len();
            assert!(read <= bytes.len() / 16, "an entry has a head");
        }
    }
}

fn open(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = DataDir::new(dir.path());
    let folder = data.journal().join("writer").join("open");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("exchange"), bytes).expect("written");
    for writer in Journal::of(&data).writers().expect("readable") {
        assert!(writer.open_exchanges().expect("readable").len() <= 1);
    }
}
