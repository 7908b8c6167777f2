//! What can be asked of compute, and the context it is asked in.

use ostler_protocol::rpc::instance::Word;
use ostler_protocol::rpc::operation::Kind;
use ostler_protocol::rpc::values::{IdempotencyKey, InstanceId, Name, Timestamp};
use ostler_protocol::rpc::{image, instance, network};
use sha2::{Digest, Sha256};

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Make an instance and start it.
    Boot(instance::Boot),
    /// Switch it on.
    Start(InstanceId),
    /// Switch it off.
    Stop(instance::Halt),
    /// Restart it.
    Reboot(instance::Halt),
    /// Stop its vCPUs.
    Pause(InstanceId),
    /// Let its vCPUs run.
    Unpause(InstanceId),
    /// Save its memory and switch it off.
    Suspend(InstanceId),
    /// Switch it on with the memory that was saved.
    Resume(InstanceId),
    /// Give it a new root disk.
    Rebuild(instance::Rebuild),
    /// Put its root disk back to its image.
    Reset(instance::Reset),
    /// Boot it from a rescue image.
    Rescue(instance::Rescue),
    /// Boot it from its own disk again.
    Unrescue(InstanceId),
    /// Give it another size.
    Resize(instance::Resize),
    /// Keep the new size.
    ConfirmResize(InstanceId),
    /// Go back to the old size.
    RevertResize(InstanceId),
    /// Change vCPUs and memory in place.
    Adjust(instance::Adjust),
    /// Make an image of its root disk.
    Snapshot(instance::Snapshot),
    /// Switch it off and keep it as an image.
    Shelve(instance::Shelve),
    /// Leave only the image.
    Offload(InstanceId),
    /// Bring it back.
    Unshelve(InstanceId),
    /// Change its name, owner or metadata.
    Update(instance::Update),
    /// Refuse changes to it.
    Lock(instance::Lock),
    /// Allow changes again.
    Unlock(InstanceId),
    /// Delete it.
    Delete(instance::Delete),
    /// Take back a soft delete.
    Restore(InstanceId),
    /// Set a password in the guest.
    Password(instance::Password),
    /// Fetch an image.
    ImageImport(image::Import),
    /// Remove an image.
    ImageRemove(Name),
    /// Make a network's bridge.
    NetworkEnsure(network::Ensure),
    /// Forget a network, and remove its bridge.
    NetworkRemove(Name),
}

/// What goes with a command besides its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// The same key is the same operation.
    pub key: Option<IdempotencyKey>,
    /// Not to be started after this.
    pub deadline: Option<Timestamp>,
}

impl Context {
    /// Whether the deadline has passed.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| now > deadline)
    }
}

impl Command {
    /// The kind of operation it becomes.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Boot(_) => Kind::Boot,
            Self::Start(_) => Kind::Start,
            Self::Stop(_) => Kind::Stop,
            Self::Reboot(_) => Kind::Reboot,
            Self::Pause(_) => Kind::Pause,
            Self::Unpause(_) => Kind::Unpause,
            Self::Suspend(_) => Kind::Suspend,
            Self::Resume(_) => Kind::Resume,
            Self::Rebuild(_) => Kind::Rebuild,
            Self::Reset(_) => Kind::Reset,
            Self::Rescue(_) => Kind::Rescue,
            Self::Unrescue(_) => Kind::Unrescue,
            Self::Resize(_) => Kind::Resize,
            Self::ConfirmResize(_) => Kind::ConfirmResize,
            Self::RevertResize(_) => Kind::RevertResize,
            Self::Adjust(_) => Kind::Adjust,
            Self::Snapshot(_) => Kind::Snapshot,
            Self::Shelve(_) => Kind::Shelve,
            Self::Offload(_) => Kind::Offload,
            Self::Unshelve(_) => Kind::Unshelve,
            Self::Update(_) => Kind::Update,
            Self::Lock(_) => Kind::Lock,
            Self::Unlock(_) => Kind::Unlock,
            Self::Delete(_) => Kind::Delete,
            Self::Restore(_) => Kind::Restore,
            Self::Password(_) => Kind::Password,
            Self::ImageImport(_) => Kind::ImageImport,
            Self::ImageRemove(_) => Kind::ImageRemove,
            Self::NetworkEnsure(_) => Kind::NetworkEnsure,
            Self::NetworkRemove(_) => Kind::NetworkRemove,
        }
    }

    /// A digest that tells a repeated request from a different one under the same key. It is kept
    /// in the journal, so no secret goes into it: a repeated key with another password is the same
    /// request.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(self.kind().method());
        digest.update([0]);
        match self {
            Self::Boot(p) => digest.update(json(p)),
            Self::Start(id)
            | Self::Pause(id)
            | Self::Unpause(id)
            | Self::Suspend(id)
            | Self::Resume(id)
            | Self::Unrescue(id)
            | Self::ConfirmResize(id)
            | Self::RevertResize(id)
            | Self::Offload(id)
            | Self::Unshelve(id)
            | Self::Unlock(id)
            | Self::Restore(id) => digest.update(id.to_string()),
            Self::Stop(p) | Self::Reboot(p) => digest.update(json(p)),
            Self::Rebuild(p) => digest.update(json(p)),
            Self::Reset(p) => digest.update(json(p)),
            Self::Rescue(p) => digest.update(json(p)),
            Self::Resize(p) => digest.update(json(p)),
            Self::Adjust(p) => digest.update(json(p)),
            Self::Snapshot(p) => digest.update(json(p)),
            Self::Shelve(p) => digest.update(json(p)),
            Self::Update(p) => digest.update(json(p)),
            Self::Lock(p) => digest.update(json(p)),
            Self::Delete(p) => digest.update(json(p)),
            Self::Password(p) => {
                let form = match p.password {
                    Word::Crypted(_) => "crypted",
                    Word::Plain(_) => "plain",
                };
                digest.update(json(&(p.id, &p.user, form)));
            }
            Self::ImageImport(p) => {
                let (source, _) = split_query(&p.source);
                digest.update(json(&(&p.name, source, p.format, &p.sha256, &p.properties)));
            }
            Self::ImageRemove(name) | Self::NetworkRemove(name) => digest.update(name.as_str()),
            Self::NetworkEnsure(p) => digest.update(json(p)),
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
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
    fn the_query_of_a_url_is_not_kept() {
        assert_eq!(split_query("https://h/i?sig=1"), ("https://h/i", true));
        assert_eq!(split_query("/a?b"), ("/a?b", false));
    }
}
