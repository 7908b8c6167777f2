//! What of a request goes into the digest that tells it from another one under the same key. Kept
//! as it is from version to version: a request may be repeated after an upgrade.

use ostler_protocol::rpc::instance::Word;
use ostler_protocol::rpc::values::{InstanceId, Name, PortId};
use ostler_protocol::rpc::{image, instance, network, port, volume};
use serde::Serialize;

/// Parameters of a request, without what is secret.
pub(super) trait Digested {
    /// The bytes of them.
    fn digested(&self) -> Vec<u8>;
}

impl Digested for InstanceId {
    fn digested(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl Digested for PortId {
    fn digested(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl Digested for Name {
    fn digested(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }
}

macro_rules! whole {
    ($($params:ty),* $(,)?) => {
        $(impl Digested for $params {
            fn digested(&self) -> Vec<u8> {
                json(self)
            }
        })*
    };
}

whole!(
    instance::Adjust,
    instance::Boot,
    instance::Delete,
    instance::Halt,
    instance::Lock,
    instance::Rebuild,
    instance::Rescue,
    instance::Reset,
    instance::Resize,
    instance::Shelve,
    instance::Snapshot,
    instance::Update,
    network::Ensure,
    port::Attach,
    port::Create,
    port::Detach,
    port::Update,
    volume::Delete,
    volume::Detach,
    volume::Swap,
    volume::Extend,
    volume::SelectSnapshot,
    volume::TakeSnapshot,
    volume::Update,
);

impl Digested for volume::Attach {
    fn digested(&self) -> Vec<u8> {
        let mut plain = self.clone();
        plain.connection.iter_mut().for_each(|connection| drop(connection.take_secret()));
        plain.passphrase = None;
        json(&plain)
    }
}

impl Digested for volume::Create {
    fn digested(&self) -> Vec<u8> {
        json(&Self { passphrase: None, ..self.clone() })
    }
}

impl Digested for instance::Password {
    fn digested(&self) -> Vec<u8> {
        let form = match self.password {
            Word::Crypted(_) => "crypted",
            Word::Plain(_) => "plain",
        };
        json(&(self.id, &self.user, form))
    }
}

impl Digested for image::Import {
    fn digested(&self) -> Vec<u8> {
        let (source, _) = split_query(&self.source);
        let base = (&self.name, source, self.format, &self.sha256, &self.properties);
        match (self.compression, &self.sha512) {
            (None, None) => json(&base),
            more => json(&(base, more)),
        }
    }
}

impl Digested for image::Export {
    fn digested(&self) -> Vec<u8> {
        let (to, _) = split_query(&self.to);
        json(&(&self.name, to))
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Wire types always serialize: their maps have text keys.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A source without its URL query, which may hold a signature, and whether it had one.
pub(super) fn split_query(source: &str) -> (&str, bool) {
    match source.split_once('?') {
        Some((plain, _)) if source.starts_with("http") => (plain, true),
        Some(_) | None => (source, false),
    }
}

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::values::Secret;

    use super::*;
    use crate::compute::operations::Command;

    fn password(word: &str) -> Command {
        Command::Password(instance::Password {
            id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            user: "root".into(),
            password: Word::Plain(Secret::new(word.into())),
        })
    }

    #[test]
    fn a_fingerprint_tells_requests_apart_but_not_their_secrets() {
        assert_eq!(password("a").fingerprint(), password("b").fingerprint());
        let id = InstanceId::random();
        assert_ne!(Command::Start(id).fingerprint(), Command::Pause(id).fingerprint());
        assert_ne!(
            Command::Start(id).fingerprint(),
            Command::Start(InstanceId::random()).fingerprint()
        );
    }

    #[test]
    fn what_an_import_need_not_say_is_in_its_digest_only_if_it_is_said() {
        let import = |json: &str| serde_json::from_str::<image::Import>(json).unwrap().digested();
        let plain = import(r#"{"name": "a", "source": "/a", "format": "raw"}"#);
        assert_eq!(plain, br#"["a","/a","raw",null,{}]"#, "as in versions before");
        let sha512 = format!(r#""sha512": "{}""#, "a".repeat(128));
        for more in [r#""compression": "xz""#, r#""compression": "gzip""#, &sha512] {
            let json = format!(r#"{{"name": "a", "source": "/a", "format": "raw", {more}}}"#);
            assert_ne!(import(&json), plain, "{more}");
        }
    }

    #[test]
    fn the_query_of_a_url_is_not_kept() {
        assert_eq!(split_query("https://h/i?sig=1"), ("https://h/i", true));
        assert_eq!(split_query("/a?b"), ("/a?b", false));
    }
}
