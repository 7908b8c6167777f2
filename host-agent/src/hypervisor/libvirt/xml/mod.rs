//! Typed values to XML and back. No policy and no calls: what goes in comes out.
//!
//! Text is escaped in one place ([`write::Document`]) and read in one place ([`read::parse`]), so
//! nothing an operator or a tenant types can become markup. Characters XML has no way to carry
//! are refused, not dropped.

pub(super) mod backup;
pub mod capabilities;
pub mod domain;
pub(super) mod graphics;
pub mod live;
pub mod metadata;
pub(super) mod network;
pub mod probe;
mod read;
pub(super) mod snapshot;
mod write;

use std::path::PathBuf;

/// What stands between a value and its XML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// XML cannot carry this character.
    #[error("<{element}> cannot hold the character {character:?}")]
    Character {
        /// Where it was to go.
        element: String,
        /// The character.
        character: char,
    },
    /// XML is text, and this path is not.
    #[error("{path:?} is not UTF-8")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The writer failed.
    #[error("writing: {reason}")]
    Write {
        /// Its words.
        reason: String,
    },
    /// Not well-formed, or beyond the bounds we read within.
    #[error("reading: {reason}")]
    Read {
        /// What is wrong.
        reason: String,
    },
    /// Well-formed, but something we need is not there or is not what it should be.
    #[error("<{element}> is missing or malformed")]
    Missing {
        /// What was looked for.
        element: &'static str,
    },
}
