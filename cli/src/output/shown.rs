//! Replies that may hold words newer than this build, for people.
//!
//! What is understood is shown as ever. What is not is shown field by field as it came: an operator
//! with an older command sees an instance in a state this build has never heard of, and not an
//! error.

use ostler_protocol::rpc::values::Timestamp;
use serde_json::Value;

use super::table::{Field, fields, list};
use super::{Look, Show};
use crate::reply::{Shown, plain};

/// Something that is a line of a table.
pub(super) trait Row {
    /// What is said where there are none.
    const NONE: &'static str;
    /// The columns, each with the place of its field in the reply.
    const COLUMNS: &'static [(&'static str, &'static str)];

    /// The fields of the columns.
    fn row(&self, now: Timestamp) -> Vec<Field>;
}

impl<T: Row> Show for Vec<Shown<T>> {
    fn show(&self, look: Look) -> String {
        if self.is_empty() {
            return T::NONE.to_owned();
        }
        let header: Vec<&str> = T::COLUMNS.iter().map(|(name, _)| *name).collect();
        let now = Timestamp::now();
        let rows = self.iter().map(|shown| match &shown.known {
            Some(known) => known.row(now),
            None => {
                let field =
                    |place| Field::plain(shown.raw.pointer(place).map_or("-".into(), plain));
                T::COLUMNS.iter().map(|(_, place)| field(place)).collect()
            }
        });
        list(look, &header, rows)
    }
}

impl<T: Show> Show for Shown<T> {
    fn show(&self, look: Look) -> String {
        match (&self.known, &self.raw) {
            (Some(known), _) => known.show(look),
            (None, Value::Object(members)) => {
                let row = |(name, value): (&String, &Value)| {
                    (name.replace('_', " "), Field::plain(plain(value)))
                };
                fields(look, members.iter().map(row))
            }
            (None, other) => Field::plain(plain(other)).into_text(),
        }
    }
}
