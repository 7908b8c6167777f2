//! Password: set the password of an account in the guest.

use super::prelude::*;

/// The longest user name Linux takes.
const USER_MAX: usize = 32;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("given a password", TaskState::UpdatingPassword, &[VmState::Active]);

/// Set a password; the word itself is only in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Password {
    /// The account.
    pub(in crate::compute) user: String,
}

pub(super) fn ask(
    password: instance::Password,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    let instance::Password { id, user, password } = password;
    check_user(&user)?;
    let mut admitted = gate.act(id, &LEGAL, |_, _| Ok(Password { user }.into()))?;
    admitted.volatile.password = Some(password);
    Ok(admitted)
}

/// A user name that the guest's tools can be given.
fn check_user(user: &str) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_graphic() && c != ':' && c != '/';
    if (1..=USER_MAX).contains(&user.len()) && user.chars().all(plain) && !user.starts_with('-') {
        return Ok(());
    }
    let text = format!("a user name is 1 to {USER_MAX} printable characters without ':' or '/'");
    Err(Refusal::new(Reason::InvalidParams, text).about("parameter user"))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Password { user: "root".to_owned() }.into()]
}

impl Describe for Password {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::SetPassword])
    }

    fn can_undo(&self) -> bool {
        false
    }
}
