//! `INSTANCE:PATH`: a file in a guest, as named on the command line.

use std::str::FromStr;

use super::InstanceRef;

/// A file in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestPath {
    /// Which guest.
    pub(crate) instance: InstanceRef,
    /// The file, by its whole path.
    pub(crate) path: String,
}

impl FromStr for GuestPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((instance, path)) = text.split_once(':') else {
            return Err("write INSTANCE:PATH, as in web:/etc/motd".to_owned());
        };
        if !path.starts_with('/') && !path.contains(":\\") {
            return Err("give the whole path of the file in the guest, as in web:/etc/motd".into());
        }
        let instance = instance.parse::<InstanceRef>().map_err(|error| error.to_string())?;
        Ok(Self { instance, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_guest_has_its_whole_path() {
        let place: GuestPath = "web:/tmp/a:b".parse().unwrap();
        assert_eq!(place.path, "/tmp/a:b");
        for bad in ["web", "/tmp/x", "web:", "web:x", ":/x", "a b:/x"] {
            assert!(bad.parse::<GuestPath>().is_err(), "{bad}");
        }
    }
}
