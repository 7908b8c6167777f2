//! A screen and its password. Whatever is written here has the password in it.

use ostler_protocol::rpc::values::{Secret, Timestamp};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::XmlError;
use super::read::parse;
use super::write::Document;

/// The last second of the last year that has four digits.
const END_OF_TIME: i64 = 253_402_300_799;

/// Writes a screen that lets in, until then, who knows the password.
pub(super) fn write(list: &mut Document, listen: &str, password: &Secret, until: Timestamp) {
    list.within(
        "graphics",
        &[
            ("type", "vnc"),
            ("port", "-1"),
            ("autoport", "yes"),
            ("listen", listen),
            ("passwd", password.expose()),
            ("passwdValidTo", &date(until)),
        ],
        |graphics| graphics.leaf("listen", &[("type", "address"), ("address", listen)]),
    );
}

/// A domain's screen as it is, with another password; none if the domain has none.
pub(in super::super) fn with_password(
    domain: &str,
    password: &Secret,
    until: Timestamp,
) -> Result<Option<Zeroizing<String>>, XmlError> {
    let domain = parse(domain)?;
    let devices = domain.child("devices").ok_or(XmlError::Missing { element: "devices" })?;
    let is_screen = |child: &&super::read::Element| {
        child.name == "graphics" && child.attribute("type") == Some("vnc")
    };
    let Some(screen) = devices.children.iter().find(is_screen) else { return Ok(None) };
    let listen = screen.attribute("listen").ok_or(XmlError::Missing { element: "graphics" })?;
    let mut document = Document::new();
    write(&mut document, listen, password, until);
    document.finish().map(Zeroizing::new).map(Some)
}

/// In UTC, as libvirt reads it.
fn date(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(END_OF_TIME).min(END_OF_TIME);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_in_utc() {
        for (millis, written) in [
            (0, "1970-01-01T00:00:00"),
            (951_827_696_999, "2000-02-29T12:34:56"),
            (u64::MAX, "9999-12-31T23:59:59"),
        ] {
            assert_eq!(date(Timestamp(millis)), written);
        }
    }

    #[test]
    fn a_screen_keeps_its_address() {
        let domain = "<domain><devices><graphics type='spice'/>\
             <graphics type='vnc' port='5901' listen='::1'/></devices></domain>";
        let password = Secret::new("<&'\">".to_owned());
        let written = with_password(domain, &password, Timestamp(0)).unwrap().unwrap();
        let screen = parse(&written).unwrap();
        assert_eq!(screen.attribute("passwd"), Some("<&'\">"));
        assert_eq!(screen.child("listen").unwrap().attribute("address"), Some("::1"));
        let without = "<domain><devices/></domain>";
        assert_eq!(with_password(without, &password, Timestamp(0)), Ok(None));
    }

    #[test]
    fn an_error_does_not_tell_the_password() {
        let domain = "<domain><devices><graphics type='vnc' listen='::'/></devices></domain>";
        let error = with_password(domain, &Secret::new("hid\0den".to_owned()), Timestamp(0));
        assert!(!error.unwrap_err().to_string().contains("hid"));
    }
}
