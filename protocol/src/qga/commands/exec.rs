//! Programs of the guest, started by path and looked after by process id.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Command;
use crate::qga::base64::Base64Data;

/// Starts a program.
#[derive(Debug)]
pub enum GuestExec {}

impl Command for GuestExec {
    const NAME: &'static str = "guest-exec";
    type Arguments = ExecArguments;
    type Reply = ExecStarted;
}

/// Arguments of [`GuestExec`]. Its debug form has what may be secret left out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExecArguments {
    /// The program: a path, or a name to look for.
    pub path: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arg: Option<Vec<String>>,
    /// Its whole environment, as `NAME=VALUE`; that of the agent if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// What it reads, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_data: Option<String>,
    /// What is kept of what it writes; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture_output: Option<ExecCapture>,
    /// Not of the standard: the account it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Not of the standard: the folder it starts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Not of the standard: after so many seconds it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}

impl fmt::Debug for ExecArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecArguments")
            .field("path", &self.path)
            .field("capture_output", &self.capture_output)
            .field("user", &self.user)
            .field("cwd", &self.cwd)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What is kept of what a program writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecCapture {
    /// Nothing: `none`, false.
    #[default]
    None,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Both, each for itself: `separated`, true.
    Separated,
    /// Both, as they come, as one.
    Merged,
}

impl ExecCapture {
    const WORDS: [(&'static str, Self); 5] = [
        ("none", Self::None),
        ("stdout", Self::Stdout),
        ("stderr", Self::Stderr),
        ("separated", Self::Separated),
        ("merged", Self::Merged),
    ];
}

impl Serialize for ExecCapture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // what agents before 8.0 know too
            Self::None => serializer.serialize_bool(false),
            Self::Separated => serializer.serialize_bool(true),
            Self::Stdout => serializer.serialize_str("stdout"),
            Self::Stderr => serializer.serialize_str("stderr"),
            Self::Merged => serializer.serialize_str("merged"),
        }
    }
}

impl<'de> Deserialize<'de> for ExecCapture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CaptureVisitor)
    }
}

struct CaptureVisitor;

impl CaptureVisitor {
    fn wrong<E: de::Error>() -> E {
        E::custom("Invalid parameter type for 'capture-output', expected: GuestExecCaptureOutput")
    }
}

impl<'de> Visitor<'de> for CaptureVisitor {
    type Value = ExecCapture;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean, none, stdout, stderr, separated or merged")
    }

    fn visit_bool<E: de::Error>(self, captured: bool) -> Result<ExecCapture, E> {
        Ok(if captured { ExecCapture::Separated } else { ExecCapture::None })
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<ExecCapture, E> {
        let known = ExecCapture::WORDS.into_iter().find(|(known, _)| *known == word);
        known.map(|(_, capture)| capture).ok_or_else(|| {
            E::custom(format_args!("Parameter 'capture-output' does not accept value '{word}'"))
        })
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<ExecCapture, E> {
        Err(Self::wrong())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<ExecCapture, E> {
        Err(Self::wrong())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<ExecCapture, E> {
        Err(Self::wrong())
    }

    fn visit_unit<E: de::Error>(self) -> Result<ExecCapture, E> {
        Err(Self::wrong())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<ExecCapture, A::Error> {
        Err(Self::wrong())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<ExecCapture, A::Error> {
        Err(Self::wrong())
    }
}

/// A program that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// Its process id.
    pub pid: i64,
}

/// Tells how a program is doing; once it has told the end, the agent forgets the program.
#[derive(Debug)]
pub enum GuestExecStatus {}

/// Bytes of each stream that one answer has, if it was asked from a place on.
pub const EXEC_PIECE: usize = 256 << 10;

/// Arguments of [`GuestExecStatus`]. With a place, which is not of the standard, the answer has what
/// the program wrote from there on, [`EXEC_PIECE`] bytes of each stream at most, also while it runs;
/// `exited` is then true only when nothing follows, and the program is not forgotten unless told, so
/// an answer that is lost can be asked for again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExecStatusArguments {
    /// Its process id.
    pub pid: i64,
    /// Not of the standard: from where on standard output is told; from its beginning, if only the
    /// other place is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_from: Option<i64>,
    /// Not of the standard: from where on standard error is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err_from: Option<i64>,
    /// Not of the standard: with a place, whether the program is forgotten once its end is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forget: Option<bool>,
}

impl Command for GuestExecStatus {
    const NAME: &'static str = "guest-exec-status";
    type Arguments = ExecStatusArguments;
    type Reply = ExecStatus;

    fn bulk(reply: &mut ExecStatus) -> Vec<&mut Base64Data> {
        [reply.out_data.as_mut(), reply.err_data.as_mut()].into_iter().flatten().collect()
    }
}

/// How a program is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExecStatus {
    /// Whether it has ended, and all that it wrote is here.
    pub exited: bool,
    /// What it returned, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exitcode: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it wrote to standard output, or to both; absent if that is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_data: Option<Base64Data>,
    /// What it wrote to standard error; absent if that is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err_data: Option<Base64Data>,
    /// Whether it wrote more than is here; present with the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_truncated: Option<bool>,
    /// Whether it wrote more than is here; present with the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err_truncated: Option<bool>,
    /// Not of the standard: true if it was ended for taking longer than it was given, else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qga::arguments;
    use serde_json::{Value, json};

    fn capture(value: Value) -> Result<Option<ExecCapture>, String> {
        let Value::Object(members) = json!({"path": "x", "capture-output": value}) else {
            panic!("arguments are an object")
        };
        let exec = arguments::read::<ExecArguments>(members);
        exec.map(|exec| exec.capture_output).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_kept_is_a_word_or_a_boolean() {
        for (word, kept) in ExecCapture::WORDS {
            assert_eq!(capture(json!(word)), Ok(Some(kept)));
            assert_eq!(capture(json!(kept)), Ok(Some(kept)));
        }
        assert_eq!(capture(json!(true)), Ok(Some(ExecCapture::Separated)));
        assert_eq!(capture(json!(false)), Ok(Some(ExecCapture::None)));
        assert_eq!(
            capture(json!("x")),
            Err("Parameter 'capture-output' does not accept value 'x'".to_owned())
        );
        for given in [json!(1), json!(null), json!([]), json!({}), json!(1.5)] {
            let text =
                "Invalid parameter type for 'capture-output', expected: GuestExecCaptureOutput";
            assert_eq!(capture(given), Err(text.to_owned()));
        }
    }

    #[test]
    fn its_debug_form_tells_no_secret() {
        let arguments = ExecArguments {
            path: "p".into(),
            arg: Some(vec!["hunter2".into()]),
            env: Some(vec!["A=hunter2".into()]),
            input_data: Some("hunter2".into()),
            ..ExecArguments::default()
        };
        assert!(!format!("{arguments:?}").contains("hunter2"));
    }
}
