//! Passwords, proved by logging in, and SSH keys.

use ostler_tests::console::Login;
use ostler_tests::guest_image::{Account, DEMO, ROOT};

use super::domain::{Domain, Seen, told};

/// The crypted form of [`DEMO`]'s password, as the small guest's /etc/shadow has it.
const DEMO_CRYPTED: &str = "$6$ostlerguest$VWxAfgrthDuo5MkBRrjEeiE1fMYBCRydN4uHpnWRBeLatBHIp5REl168EP53rI4E2uGAEg.Bw8txSelIRMXx30";

/// A new password lets root in on the console, and the old one does not any longer.
pub(super) async fn password(domain: &mut Domain) -> Seen {
    let new = Account { user: ROOT.user, password: "n3w: $h\"ay'" };
    domain.virsh(&["set-user-password", new.user, new.password]).await?;
    let console = domain.console().await?;
    let Login::Refused(console) = console.login(ROOT.user, ROOT.password).await.map_err(told)?
    else {
        return Err("the old password was taken".to_owned());
    };
    drop(console);
    domain.log_in(new).await?;
    domain.virsh(&["set-user-password", ROOT.user, ROOT.password]).await?;
    Ok("set".to_owned())
}

/// One that is crypted already is taken as it is.
pub(super) async fn encrypted_password(domain: &mut Domain) -> Seen {
    domain.virsh(&["set-user-password", DEMO.user, "something else"]).await?;
    domain.virsh(&["set-user-password", "--encrypted", DEMO.user, DEMO_CRYPTED]).await?;
    let shadow = domain.ask("grep ^demo: /etc/shadow | cut -d: -f2").await?;
    if shadow != DEMO_CRYPTED {
        return Err(format!("not the crypted password: {shadow:?}"));
    }
    Ok("set".to_owned())
}

/// Accounts there are none of are refused, and nothing is changed.
pub(super) async fn wrong_accounts(domain: &mut Domain) -> Seen {
    let before = domain.ask("md5sum /etc/shadow").await?;
    for user in ["nobody-here", ""] {
        if domain.virsh(&["set-user-password", user, "hay"]).await.is_ok() {
            return Err(format!("a password was set for {user:?}"));
        }
        if domain.virsh(&["get-user-sshkeys", "nobody-here"]).await.is_ok() {
            return Err("somebody who is not there has keys".to_owned());
        }
    }
    if domain.ask("md5sum /etc/shadow").await? != before {
        return Err("/etc/shadow was changed".to_owned());
    }
    Ok("refused".to_owned())
}

pub(super) async fn keys_of_root(domain: &mut Domain) -> Seen {
    keys(domain, "root", "/root").await
}

pub(super) async fn keys_of_user(domain: &mut Domain) -> Seen {
    keys(domain, "demo", "/home/demo").await
}

/// Keys are added, listed, not added twice, removed and replaced; the files are the user's own.
async fn keys(domain: &mut Domain, user: &str, home: &str) -> Seen {
    let key = |name: &str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHay{name} {name}@test");
    let (one, two, three) = (key("one"), key("two"), key("three"));
    let file = domain.file("keys", &format!("{one}\n{two}\n"));
    domain.virsh(&["set-user-sshkeys", user, &file]).await?;
    let mut seen = vec![listed(domain, user).await?];
    let more = domain.file("more", &format!("{three}\n"));
    for _ in 0..2 {
        domain.virsh(&["set-user-sshkeys", user, &more]).await?;
    }
    seen.push(listed(domain, user).await?);
    domain.virsh(&["set-user-sshkeys", "--remove", user, &file]).await?;
    seen.push(listed(domain, user).await?);
    domain.virsh(&["set-user-sshkeys", "--reset", user, &file]).await?;
    seen.push(listed(domain, user).await?);
    let expected = [vec![&one, &two], vec![&one, &two, &three], vec![&three], vec![&one, &two]]
        .map(|keys| {
            let mut keys: Vec<String> = keys.into_iter().cloned().collect();
            keys.sort();
            keys
        });
    if seen != expected {
        return Err(format!("{seen:#?}"));
    }
    domain.ask(&format!("stat -c '%n %a %U' {home}/.ssh {home}/.ssh/authorized_keys")).await
}

async fn listed(domain: &Domain, user: &str) -> Seen<Vec<String>> {
    let text = domain.virsh(&["get-user-sshkeys", user]).await?;
    // virsh ends none of them by a newline
    let mut keys: Vec<_> = text.split_inclusive("@test").map(str::to_owned).collect();
    keys.sort();
    Ok(keys)
}
