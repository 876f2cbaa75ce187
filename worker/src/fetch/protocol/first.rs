//! The first version of git's protocol, which a server speaks that was not told of the second: an sshd that lets no
//! environment through, above all. See gitprotocol-pack(5).

use std::io::{self, Read, Write};

use git2::Oid;
use runtimed_api::problem::Code;

use super::{Base, Cut, streamed, whole_id};
use crate::failure::Failure;
use crate::fetch::packet::{FLUSH, Packet, Packets, broken, put};
use crate::fetch::reference::Found;

/// Refs that a server may have.
const MAX_REFS: usize = 1_000_000;

/// All refs of a server, and what it can do.
#[derive(Debug)]
pub(super) struct Advertised {
    refs: Vec<(Oid, String)>,
    capabilities: Vec<String>,
}

impl Advertised {
    /// Reads the refs, of which `first` is the first line; `None` if that is no ref, or has ids of another kind.
    pub(super) fn read<R: Read>(first: &[u8], packets: &mut Packets<R>) -> io::Result<Option<Self>> {
        let Some(nul) = first.iter().position(|byte| *byte == 0) else { return Ok(None) };
        let (line, capabilities) = (&first[..nul], String::from_utf8_lossy(&first[nul + 1..]));
        let capabilities: Vec<_> = capabilities.split_ascii_whitespace().map(str::to_owned).collect();
        if capabilities.iter().any(|word| word.starts_with("object-format=") && word != "object-format=sha1")
        {
            return Ok(None);
        }
        let mut refs = Vec::new();
        let Some(known) = reference(line) else { return Ok(None) };
        refs.extend(known);
        loop {
            match packets.next()? {
                Packet::Data(line) => {
                    // A server that is a shallow clone says where it is cut; what is behind cannot be had.
                    if !line.starts_with(b"shallow ") {
                        refs.extend(reference(line).ok_or_else(|| broken("a ref without a name"))?);
                    }
                }
                Packet::Flush | Packet::Delimiter => return Ok(Some(Self { refs, capabilities })),
            }
            if refs.len() > MAX_REFS {
                return Err(broken("more refs than a repository can have"));
            }
        }
    }

    /// The first of `candidates` that is there.
    pub(super) fn find(&self, candidates: &[String]) -> Option<Found> {
        let (id, name) = candidates.iter().find_map(|name| self.refs.iter().find(|(_, it)| it == name))?;
        let leads_to = self.capabilities.iter().find_map(|word| {
            word.strip_prefix("symref=")?.strip_prefix(name.as_str())?.strip_prefix(':').map(str::to_owned)
        });
        Some(Found { id: *id, name: Some(leads_to.unwrap_or_else(|| name.clone())) })
    }

    pub(super) fn request(&self, wanted: Oid, depth: u32, base: &Base) -> Result<Vec<u8>, Failure> {
        let can = |word: &str| self.capabilities.iter().any(|it| it == word);
        if !can("side-band-64k") || (!can("shallow") && (depth > 0 || !base.shallow.is_empty())) {
            let message = "the server is too old: it knows neither side bands nor shallow clones";
            return Err(Failure::fault(Code::SourceFailed, message).lasting().hint("ask for depth 0"));
        }
        let thin = (!base.commits.is_empty()).then_some("thin-pack");
        let known = ["no-progress", "ofs-delta"].into_iter().chain(thin).filter(|word| can(word));
        let words: String = known.map(|word| format!(" {word}")).collect();
        let mut request = Vec::new();
        put(&mut request, &format!("want {wanted} side-band-64k{words}\n"));
        for id in &base.shallow {
            put(&mut request, &format!("shallow {id}\n"));
        }
        if depth > 0 {
            put(&mut request, &format!("deepen {depth}\n"));
        }
        request.extend_from_slice(FLUSH);
        for id in &base.commits {
            put(&mut request, &format!("have {id}\n"));
        }
        put(&mut request, "done\n");
        Ok(request)
    }
}

/// `id SP name`. The inner `None` is a ref that nobody can ask for: one with a name that is no text, the peeled form of a
/// tag, or the stand-in of a repository without refs.
#[expect(
    clippy::option_option,
    reason = "a line that is no ref is another thing than a ref that is passed over"
)]
fn reference(line: &[u8]) -> Option<Option<(Oid, String)>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (id, name) = line.split_at_checked(40)?;
    let id = whole_id(std::str::from_utf8(id).ok()?)?;
    let name = std::str::from_utf8(name.strip_prefix(b" ")?).ok();
    Some(name.filter(|name| !name.ends_with("^{}")).map(|name| (id, name.to_owned())))
}

/// Reads the answer: where the history is cut, what the server has in common, then the pack.
pub(super) fn received<R: Read>(
    packets: &mut Packets<R>,
    deepened: bool,
    cut: &mut Cut,
    pack: &mut dyn Write,
) -> io::Result<()> {
    if deepened {
        while let Some(line) = packets.next()?.line()? {
            cut.told(line)?;
        }
    }
    loop {
        let packet = packets.next()?;
        match packet {
            Packet::Data(line) if line.starts_with(b"NAK") || line.starts_with(b"ACK ") => {}
            packet => {
                if !streamed(&packet, pack)? {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789012345678901234567890123456789";

    fn lines(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| put(&mut bytes, line));
        bytes.extend_from_slice(FLUSH);
        bytes
    }

    #[test]
    fn refs_come_with_the_greeting() {
        let first = format!("{ID} HEAD\0side-band-64k shallow symref=HEAD:refs/heads/main");
        let bytes = lines(&[&format!("{ID} refs/heads/main\n"), &format!("{ID} refs/tags/v1^{{}}\n")]);
        let read = |first: &str| Advertised::read(first.as_bytes(), &mut Packets::new(bytes.as_slice()));
        let advertised = read(&first).unwrap().unwrap();
        let head = advertised.find(&["HEAD".to_owned()]).unwrap();
        assert_eq!(head.name.as_deref(), Some("refs/heads/main"));
        assert!(advertised.find(&["refs/tags/v1^{}".to_owned()]).is_none());
        assert!(read(&first.replace("shallow", "object-format=sha256")).unwrap().is_none());
        assert!(read("nothing\0").unwrap().is_none());
        let old = read(&first.replace("side-band-64k", "")).unwrap().unwrap();
        assert!(old.request(Oid::from_str(ID).unwrap(), 1, &Base::default()).is_err());
    }

    #[test]
    fn an_empty_repository_has_no_ref() {
        let first = format!("{} capabilities^{{}}\0side-band-64k", "0".repeat(40));
        let advertised = Advertised::read(first.as_bytes(), &mut Packets::new(FLUSH)).unwrap().unwrap();
        assert!(advertised.find(&["HEAD".to_owned()]).is_none());
    }

    #[test]
    fn the_pack_follows_what_is_in_common() {
        let mut bytes = lines(&[&format!("shallow {ID}\n")]);
        bytes.extend(lines(&["NAK\n", "\u{1}PACK", "\u{2}noise"]));
        let (mut pack, mut cut) = (Vec::new(), Cut { shallow: Vec::new() });
        received(&mut Packets::new(bytes.as_slice()), true, &mut cut, &mut pack).unwrap();
        assert_eq!((pack.as_slice(), cut.shallow.len()), (&b"PACK"[..], 1));
    }
}
