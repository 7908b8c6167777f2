//! Tokens to a value.
//!
//! The value is built as its tokens come, so a long string is moved into place and never copied or
//! parsed a second time; the depth is the caller's to limit.

use serde_json::{Map, Number, Value};

use super::lexer::{Bracket, Lexeme};
use super::{FramingError, SHOWN};

/// A token whose text means something.
#[derive(Debug)]
pub(super) enum Token {
    Open(Bracket),
    Close(Bracket),
    Comma,
    Colon,
    Text(String),
    Scalar(Value),
}

impl TryFrom<Lexeme> for Token {
    type Error = FramingError;

    fn try_from(lexeme: Lexeme) -> Result<Self, FramingError> {
        Ok(match lexeme {
            Lexeme::Open(bracket) => Self::Open(bracket),
            Lexeme::Close(bracket) => Self::Close(bracket),
            Lexeme::Comma => Self::Comma,
            Lexeme::Colon => Self::Colon,
            Lexeme::Text(text) => Self::Text(text),
            Lexeme::Number(text) => Self::Scalar(Value::Number(number(&text)?)),
            Lexeme::Keyword(text) => Self::Scalar(match text.as_str() {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return Err(FramingError::Keyword(text.chars().take(SHOWN).collect())),
            }),
        })
    }
}

/// An integer if it is written as one and fits 64 bits, else the nearest double.
fn number(text: &str) -> Result<Number, FramingError> {
    if !text.contains(['.', 'e', 'E']) {
        if let Ok(integer) = text.parse::<i64>() {
            return Ok(integer.into());
        }
        if let Ok(integer) = text.parse::<u64>() {
            return Ok(integer.into());
        }
    }
    text.parse().ok().and_then(Number::from_f64).ok_or_else(|| FramingError::stray(text.as_bytes()))
}

/// The value so far: the containers that are open, innermost last.
#[derive(Debug, Default)]
pub(super) struct Builder {
    root: Option<Value>,
    stack: Vec<Container>,
}

#[derive(Debug)]
enum Container {
    Array { items: Vec<Value>, due: Due },
    Object { members: Map<String, Value>, key: String, due: Due },
}

/// What may come next in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The first element or key, or the end.
    FirstOrEnd,
    /// An element or a key, after a comma.
    Next,
    Colon,
    /// The value of a key.
    Value,
    CommaOrEnd,
}

/// Which kind a container is, for the words an error has for it.
#[derive(Clone, Copy, Debug)]
enum Within {
    List,
    Dict,
}

impl Due {
    /// What to say of a token that is not due, in the words of stock agents.
    fn error(self, within: Within) -> FramingError {
        FramingError::Grammar(match (self, within) {
            (Self::FirstOrEnd | Self::Next | Self::Value, _) => "expecting value",
            (Self::Colon, _) => "missing : in object pair",
            (Self::CommaOrEnd, Within::List) => "expected separator in list",
            (Self::CommaOrEnd, Within::Dict) => "expected separator in dict",
        })
    }
}

impl Container {
    /// What to say of a token that is not due here.
    fn error(&self) -> FramingError {
        match self {
            Self::Array { due, .. } => due.error(Within::List),
            Self::Object { due, .. } => due.error(Within::Dict),
        }
    }
}

/// What to say of a token that is not due outside of all containers.
const NO_VALUE: FramingError = FramingError::Grammar("expecting value");

impl Builder {
    /// The value, if it is whole.
    pub(super) fn take(&mut self) -> Option<Value> {
        self.root.take()
    }

    pub(super) fn accept(&mut self, token: Token) -> Result<(), FramingError> {
        match token {
            Token::Open(bracket) => {
                self.value_is_due()?;
                self.stack.push(match bracket {
                    Bracket::Square => Container::Array { items: Vec::new(), due: Due::FirstOrEnd },
                    Bracket::Curly => Container::Object {
                        members: Map::new(),
                        key: String::new(),
                        due: Due::FirstOrEnd,
                    },
                });
                Ok(())
            }
            Token::Close(bracket) => self.close(bracket),
            Token::Comma => match self.stack.last_mut() {
                Some(Container::Array { due, .. } | Container::Object { due, .. })
                    if *due == Due::CommaOrEnd =>
                {
                    *due = Due::Next;
                    Ok(())
                }
                container => Err(container.map_or(NO_VALUE, |container| container.error())),
            },
            Token::Colon => match self.stack.last_mut() {
                Some(Container::Object { due, .. }) if *due == Due::Colon => {
                    *due = Due::Value;
                    Ok(())
                }
                container => Err(container.map_or(NO_VALUE, |container| container.error())),
            },
            Token::Text(text) => match self.stack.last_mut() {
                Some(Container::Object { members, key, due })
                    if matches!(due, Due::FirstOrEnd | Due::Next) =>
                {
                    if members.contains_key(&text) {
                        return Err(FramingError::DuplicateKey);
                    }
                    *key = text;
                    *due = Due::Colon;
                    Ok(())
                }
                _ => self.place(Value::String(text)),
            },
            Token::Scalar(value) => self.place(value),
        }
    }

    fn value_is_due(&self) -> Result<(), FramingError> {
        match self.stack.last() {
            None => Ok(()),
            Some(container @ Container::Array { due, .. }) => match due {
                Due::FirstOrEnd | Due::Next => Ok(()),
                Due::Colon | Due::Value | Due::CommaOrEnd => Err(container.error()),
            },
            Some(container @ Container::Object { due, .. }) => match due {
                Due::Value => Ok(()),
                Due::FirstOrEnd | Due::Next => {
                    Err(FramingError::Grammar("key is not a string in object"))
                }
                Due::Colon | Due::CommaOrEnd => Err(container.error()),
            },
        }
    }

    fn place(&mut self, value: Value) -> Result<(), FramingError> {
        self.value_is_due()?;
        match self.stack.last_mut() {
            None => self.root = Some(value),
            Some(Container::Array { items, due }) => {
                items.push(value);
                *due = Due::CommaOrEnd;
            }
            Some(Container::Object { members, key, due }) => {
                members.insert(std::mem::take(key), value);
                *due = Due::CommaOrEnd;
            }
        }
        Ok(())
    }

    fn close(&mut self, bracket: Bracket) -> Result<(), FramingError> {
        let value = match (self.stack.pop(), bracket) {
            (
                Some(Container::Array { items, due: Due::FirstOrEnd | Due::CommaOrEnd }),
                Bracket::Square,
            ) => Value::Array(items),
            (
                Some(Container::Object { members, due: Due::FirstOrEnd | Due::CommaOrEnd, .. }),
                Bracket::Curly,
            ) => Value::Object(members),
            (container, _) => return Err(container.map_or(NO_VALUE, |container| container.error())),
        };
        self.place(value)
    }
}
