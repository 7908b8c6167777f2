//! Files and programs: every reply, word for word.

use serde_json::{Value, json};

use super::domain::{Domain, Seen};

/// What became of one command: its reply, or its refusal.
async fn tell(domain: &Domain, command: &str, arguments: Value) -> String {
    match domain.agent(command, arguments.clone()).await {
        Ok(reply) => format!("{command} {arguments}: {reply}"),
        Err(refusal) => format!("{command} {arguments}: refused: {refusal}"),
    }
}

/// A file is written, read to its end and beyond, and the ways to be refused.
pub(super) async fn file(domain: &mut Domain) -> Seen {
    let open = json!({"path": "/mnt/hay", "mode": "w+"});
    let handle = domain.agent("guest-file-open", open).await?;
    let mut seen = vec![format!("the first handle is {handle}")];
    let at = |more: Value| {
        let mut arguments = json!({"handle": handle});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        arguments
    };
    for (command, arguments) in [
        ("guest-file-write", at(json!({"buf-b64": "aGF5Cg=="}))),
        ("guest-file-flush", at(json!({}))),
        ("guest-file-seek", at(json!({"offset": 1, "whence": "set"}))),
        ("guest-file-read", at(json!({"count": 3}))),
        ("guest-file-read", at(json!({"count": 3}))),
        ("guest-file-seek", at(json!({"offset": -2, "whence": 2}))),
        ("guest-file-read", at(json!({}))),
        ("guest-file-seek", at(json!({"offset": 0, "whence": "middle"}))),
        ("guest-file-seek", at(json!({"offset": -9, "whence": "set"}))),
        ("guest-file-write", at(json!({"buf-b64": "aGF5Cg==", "count": 9}))),
        ("guest-file-write", at(json!({"buf-b64": "%%"}))),
        ("guest-file-read", at(json!({"count": -1}))),
    ] {
        seen.push(tell(domain, command, arguments).await);
    }
    let content = domain.ask("cat /mnt/hay").await?;
    seen.push(format!("in the file: {content:?}"));

    // nine bytes are twelve characters without padding
    let lines = 3000;
    domain.agent("guest-file-seek", at(json!({"offset": 0, "whence": 0}))).await?;
    let bulk = "aGF5IGhheSEK".repeat(lines);
    let wrote = domain.agent("guest-file-write", at(json!({"buf-b64": bulk}))).await?;
    seen.push(format!("bulk: {wrote}"));
    domain.agent("guest-file-seek", at(json!({"offset": 0, "whence": 0}))).await?;
    let read = domain.agent("guest-file-read", at(json!({"count": lines * 9 + 1}))).await?;
    if read["buf-b64"] != json!(bulk) {
        return Err(format!("another {} bytes came back", read["count"]));
    }

    for (command, arguments) in [
        ("guest-file-close", at(json!({}))),
        ("guest-file-close", at(json!({}))),
        ("guest-file-read", at(json!({}))),
        ("guest-file-open", json!({"path": "/mnt/none"})),
        ("guest-file-open", json!({"path": "/mnt/hay", "mode": "rw"})),
        ("guest-file-open", json!({"path": "/mnt", "mode": "w"})),
    ] {
        seen.push(tell(domain, command, arguments).await);
    }
    seen.push(domain.ask("stat -c '%a %U %s' /mnt/hay").await?);
    Ok(seen.join("\n"))
}

/// Programs: their output, input, environment, ends; and that a result is given once.
pub(super) async fn exec(domain: &mut Domain) -> Seen {
    let mut seen = Vec::new();
    let sh = |script: &str, more: Value| {
        let mut arguments = json!({"path": "/bin/sh", "arg": ["-c", script]});
        arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        arguments
    };
    for arguments in [
        sh("echo out; echo err >&2; exit 3", json!({"capture-output": true})),
        sh("echo out; exit 0", json!({})),
        sh("cat; pwd", json!({"capture-output": true, "input-data": "aGF5Cg=="})),
        sh("echo $HAY-$HOME", json!({"capture-output": true, "env": ["HAY=stack"]})),
        sh("kill -9 $$", json!({"capture-output": true})),
        json!({"path": "echo", "arg": ["by", "PATH"], "capture-output": true}),
    ] {
        let pid = domain.agent("guest-exec", arguments.clone()).await?["pid"].clone();
        let status = domain
            .until("the program has ended", async || {
                let status = domain.agent("guest-exec-status", json!({"pid": pid})).await?;
                if status["exited"] == true { Ok(status) } else { Err(status.to_string()) }
            })
            .await?;
        seen.push(format!("{arguments}: {status}"));
        if domain.agent("guest-exec-status", json!({"pid": pid})).await.is_ok() {
            return Err("a result was given twice".to_owned());
        }
    }
    seen.push(tell(domain, "guest-exec", json!({"path": "/bin/none"})).await);
    seen.push(tell(domain, "guest-exec-status", json!({"pid": 999_999})).await);
    Ok(seen.join("\n"))
}
