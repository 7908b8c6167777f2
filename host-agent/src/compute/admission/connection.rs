//! Volumes that are kept elsewhere: what a request says of one, made a record without its secret.
//! Pure.

use std::path::{Component, Path, PathBuf};

use ostler_protocol::rpc::values::Secret;
use ostler_protocol::rpc::volume::connection::{Connection, Iscsi, Local, Nbd, Nfs, Rbd};
use uuid::Uuid;

use crate::journal::records::{ConnectionRecord, Host, NbdServer};
use crate::refusal::{Reason, Refusal};

const NBD_PORT: u16 = 10809;
const ISCSI_PORT: u16 = 3260;
/// A name, an address, a path: none is longer.
const WORD_MAX: usize = 512;
/// A secret: a Ceph keyring has some hundred bytes.
const SECRET_MAX: usize = 4096;

/// What is recorded of a connection, and the secret it came with. `sockets` is where NBD sockets
/// are.
///
/// # Errors
/// `invalid_params`; the secret is in no text.
pub(in crate::compute) fn admit(
    mut connection: Connection,
    sockets: &Path,
    has_passphrase: bool,
) -> Result<(ConnectionRecord, Option<Secret>), Refusal> {
    let secret = connection.take_secret();
    if secret.as_ref().is_some_and(|secret| secret.expose().len() > SECRET_MAX) {
        return Err(wrong(format!("its secret is longer than {SECRET_MAX} bytes")));
    }
    if connection.terms().encrypted == Some(true) && !has_passphrase {
        return Err(
            wrong("the volume is encrypted: send its passphrase").about("parameter passphrase")
        );
    }
    match connection {
        Connection::Nbd(nbd) => Ok((of_nbd(nbd, sockets)?, None)),
        Connection::Iscsi(iscsi) => of_iscsi(iscsi, secret),
        Connection::Rbd(rbd) => of_rbd(rbd, secret),
        Connection::Nfs(nfs) => Ok((of_nfs(nfs)?, None)),
        Connection::Local(Local { device_path, .. }) => {
            let device = below(&device_path, Path::new("/dev"), "device_path")?;
            Ok((ConnectionRecord::Local { device, identity: None }, None))
        }
    }
}

fn of_nbd(nbd: Nbd, sockets: &Path) -> Result<ConnectionRecord, Refusal> {
    let Nbd { host, port, socket, export, terms: _ } = nbd;
    let server = match (host, socket) {
        (Some(name), None) => {
            NbdServer::Tcp(Host { name: host_name(name, "host")?, port: port.unwrap_or(NBD_PORT) })
        }
        (None, Some(socket)) => NbdServer::Unix(below(&socket, sockets, "socket")?),
        (Some(_), Some(_)) | (None, None) => {
            return Err(wrong("an NBD server is at a host, or at a socket: name one of them"));
        }
    };
    let export = word(export.unwrap_or_default(), "export", |c| !c.is_control())?;
    Ok(ConnectionRecord::Nbd { server, export })
}

fn of_nfs(nfs: Nfs) -> Result<ConnectionRecord, Refusal> {
    let Nfs { export, name, format, terms: _ } = nfs;
    if format.is_some_and(|format| format != "raw") {
        return Err(wrong("format is raw: a qcow2 of somebody else's may name other files"));
    }
    let Some((host, folder)) = export.split_once(":/") else {
        return Err(wrong("export is HOST:/PATH"));
    };
    // cinder puts IPv6 addresses in brackets.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = host_name(bare.unwrap_or(host).to_owned(), "export")?;
    // In QEMU's URL, what follows ? or # is not of the path.
    let plain = |c: char| c.is_ascii_graphic() && !"?#%".contains(c);
    let folder = word(folder.to_owned(), "export", plain)?;
    let name = some(word(name, "name", |c| plain(c) && c != '/')?, "name")?;
    if folder.split('/').chain([name.as_str()]).any(|part| part == "..") {
        return Err(wrong("export and name are a path without detours"));
    }
    let folder = folder.trim_end_matches('/');
    let path = if folder.is_empty() { format!("/{name}") } else { format!("/{folder}/{name}") };
    Ok(ConnectionRecord::Nfs { host, path })
}

fn of_iscsi(
    iscsi: Iscsi,
    secret: Option<Secret>,
) -> Result<(ConnectionRecord, Option<Secret>), Refusal> {
    let Iscsi { target_portal, target_iqn, target_lun, auth_method, auth_username, .. } = iscsi;
    let portal = host_and_port(&target_portal, "target_portal", ISCSI_PORT)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-:_".contains(c);
    let target = some(word(target_iqn, "target_iqn", plain)?, "target_iqn")?;
    let (user, secret) = match (auth_method.as_deref(), auth_username, secret) {
        (None | Some("" | "None"), _, _) => (None, None),
        (Some("CHAP"), Some(user), Some(secret)) => {
            let user = some(word(user, "auth_username", |c| !c.is_control())?, "auth_username")?;
            (Some(user), Some(secret))
        }
        (Some("CHAP"), _, _) => {
            return Err(wrong("CHAP needs auth_username and auth_password"));
        }
        (Some(_), _, _) => return Err(wrong("auth_method is CHAP, or absent")),
    };
    Ok((ConnectionRecord::Iscsi { portal, target, lun: target_lun, user }, secret))
}

fn of_rbd(
    rbd: Rbd,
    keyring: Option<Secret>,
) -> Result<(ConnectionRecord, Option<Secret>), Refusal> {
    let Rbd { name, hosts, ports, auth_enabled, auth_username, secret_uuid, .. } = rbd;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let image = word(name, "name", plain)?;
    if image.split('/').count() < 2 || image.split('/').any(str::is_empty) {
        return Err(wrong("name is POOL/IMAGE"));
    }
    if hosts.is_empty() || hosts.len() != ports.len() || hosts.len() > 64 {
        return Err(wrong("hosts and ports name the monitors: one port for each host"));
    }
    let monitor = |(host, port): (String, String)| {
        let port = port.parse().map_err(|_| wrong("a port in ports is not a number"))?;
        // cinder puts IPv6 addresses in brackets.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Ok(Host { name: host_name(bare.unwrap_or(&host).to_owned(), "hosts")?, port })
    };
    let monitors = hosts.into_iter().zip(ports).map(monitor).collect::<Result<_, Refusal>>()?;
    if auth_enabled != Some(true) {
        return Ok((ConnectionRecord::Rbd { image, monitors, user: None, secret: None }, None));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let user = word(auth_username.unwrap_or_default(), "auth_username", plain)?;
    let user = Some(some(user, "auth_username")?);
    // A key that comes along is newer than one that lies there.
    if let Some(keyring) = keyring.filter(|keyring| !keyring.expose().trim().is_empty()) {
        let key = key_of(&keyring)?;
        return Ok((ConnectionRecord::Rbd { image, monitors, user, secret: None }, Some(key)));
    }
    let uuid = secret_uuid.as_deref().and_then(|uuid| Uuid::parse_str(uuid).ok());
    let Some(uuid) = uuid else {
        return Err(wrong("the cluster asks for a key: send keyring, or the secret_uuid of one"));
    };
    Ok((ConnectionRecord::Rbd { image, monitors, user, secret: Some(uuid.to_string()) }, None))
}

/// The key in a keyring, or the key itself.
fn key_of(keyring: &Secret) -> Result<Secret, Refusal> {
    let text = keyring.expose();
    let mut keys = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "key").then(|| value.trim())
    });
    let key = keys.next_back().unwrap_or(text.trim());
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    match !key.is_empty() && key.chars().all(base64) {
        true => Ok(Secret::new(key.to_owned())),
        false => Err(wrong("keyring is neither a keyring nor a key")),
    }
}

/// A path below a folder, without detours.
fn below(path: &str, folder: &Path, member: &str) -> Result<PathBuf, Refusal> {
    let path = PathBuf::from(word(path.to_owned(), member, |c| !c.is_control())?);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    match path.starts_with(folder) && path != folder && path.components().all(plain) {
        true => Ok(path),
        false => Err(wrong(format!("{member} is a path below {}", folder.display()))),
    }
}

fn host_and_port(text: &str, member: &str, usual: u16) -> Result<Host, Refusal> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None => text.rsplit_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = port.map_or(Ok(usual), str::parse);
    let port = port.map_err(|_| wrong(format!("{member} is HOST:PORT")))?;
    Ok(Host { name: host_name(name.to_owned(), member)?, port })
}

fn host_name(name: String, member: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-:_".contains(c);
    some(word(name, member, plain)?, member)
}

fn some(word: String, member: &str) -> Result<String, Refusal> {
    if word.is_empty() { Err(wrong(format!("{member} is empty"))) } else { Ok(word) }
}

fn word(word: String, member: &str, may: impl Fn(char) -> bool) -> Result<String, Refusal> {
    if word.len() > WORD_MAX {
        return Err(wrong(format!("{member} is longer than {WORD_MAX} bytes")));
    }
    match word.chars().find(|c| !may(*c)) {
        None => Ok(word),
        Some(c) => Err(wrong(format!("{member} cannot have the character {c:?}"))),
    }
}

fn wrong(text: impl Into<String>) -> Refusal {
    Refusal::new(Reason::InvalidParams, text).about("parameter connection")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(kind: &str, data: Value) -> Result<(ConnectionRecord, Option<Secret>), Refusal> {
        let sent = json!({"driver_volume_type": kind, "data": data});
        admit(serde_json::from_value(sent).unwrap(), Path::new("/run/ostler/nbd"), false)
    }

    fn shown(kind: &str, data: Value) -> String {
        ask(kind, data).unwrap().0.to_string()
    }

    #[test]
    fn what_is_asked_for_is_what_is_recorded() {
        let nbd = json!({"host": "10.0.0.7", "export": "a"});
        assert_eq!(shown("nbd", nbd), "nbd 10.0.0.7:10809 a");
        assert_eq!(shown("nbd", json!({"socket": "/run/ostler/nbd/x"})), "nbd /run/ostler/nbd/x ");
        let iscsi = json!({"target_portal": "[fd00::1]:3261", "target_iqn": "iqn.x:1",
            "target_lun": 2, "auth_method": "CHAP", "auth_username": "u", "auth_password": "pw"});
        let (record, secret) = ask("iscsi", iscsi).unwrap();
        assert_eq!(record.to_string(), "iscsi [fd00::1]:3261 iqn.x:1/2");
        assert_eq!(secret.unwrap().expose(), "pw");
        let nfs = json!({"export": "[fd00::1]:/srv/volumes/", "name": "volume-1", "options": null,
            "format": "raw"});
        assert_eq!(shown("nfs", nfs), "nfs fd00::1:/srv/volumes/volume-1");
        assert_eq!(
            shown("local", json!({"device_path": "/dev/disk/by-id/x"})),
            "/dev/disk/by-id/x"
        );
    }

    #[test]
    fn a_ceph_key_comes_along_or_lies_on_the_node() {
        let with = |more: Value| {
            let mut data = json!({"name": "p/i", "hosts": ["[::1]"], "ports": ["6789"],
                "auth_enabled": true, "auth_username": "cinder"});
            data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            ask("rbd", data)
        };
        let uuid = "457eb676-33da-42ec-9a8c-9293d545c337";
        let (record, secret) = with(json!({"secret_uuid": uuid})).unwrap();
        let ConnectionRecord::Rbd { secret: Some(named), monitors, .. } = record else { panic!() };
        assert_eq!((named.as_str(), secret, monitors[0].name.as_str()), (uuid, None, "::1"));
        let keyring = "[client.cinder]\n\tkey = AQBh==\n\tcaps mon = \"allow r\"\n";
        for keyring in [keyring, "AQBh=="] {
            let (record, secret) = with(json!({"secret_uuid": uuid, "keyring": keyring})).unwrap();
            assert!(matches!(record, ConnectionRecord::Rbd { secret: None, .. }));
            assert_eq!(secret.unwrap().expose(), "AQBh==");
        }
        assert!(with(json!({})).is_err());
        assert!(with(json!({"auth_enabled": false})).unwrap().1.is_none());
    }

    #[test]
    fn what_leads_elsewhere_or_cannot_be_done_is_refused_without_the_secret() {
        let chap = |more: Value| {
            let mut data = json!({"target_portal": "h:1", "target_iqn": "iqn.x", "target_lun": 0,
                "auth_method": "CHAP", "auth_username": "u", "auth_password": "hunter2"});
            data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            data
        };
        for (kind, data) in [
            ("nbd", json!({})),
            ("nbd", json!({"host": "h", "socket": "/run/ostler/nbd/x"})),
            ("nbd", json!({"socket": "/run/libvirt/libvirt-sock"})),
            ("nbd", json!({"socket": "/run/ostler/nbd/../host-agent.sock"})),
            ("nbd", json!({"host": "h", "encrypted": true})),
            ("iscsi", chap(json!({"auth_username": null}))),
            ("iscsi", chap(json!({"auth_method": "hunter2"}))),
            ("iscsi", chap(json!({"target_iqn": "iqn.x/1"}))),
            ("iscsi", chap(json!({"target_portal": "h:hunter2"}))),
            ("rbd", json!({"name": "p/i:conf=/x", "hosts": ["h"], "ports": ["1"]})),
            ("rbd", json!({"name": "i", "hosts": ["h"], "ports": ["1"]})),
            ("rbd", json!({"name": "p/i", "hosts": ["h"], "ports": []})),
            ("nfs", json!({"export": "h:/srv", "name": "volume-1", "format": "qcow2"})),
            ("nfs", json!({"export": "h:/srv", "name": "../shadow"})),
            ("nfs", json!({"export": "h:/srv/..", "name": "volume-1"})),
            ("nfs", json!({"export": "h:/srv", "name": "v?uid=0"})),
            ("nfs", json!({"export": "/srv", "name": "volume-1"})),
            ("local", json!({"device_path": "/etc/shadow"})),
            ("local", json!({"device_path": "/dev/../etc/shadow"})),
        ] {
            let refused = ask(kind, data.clone()).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidParams, "{data}");
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
        }
    }
}
