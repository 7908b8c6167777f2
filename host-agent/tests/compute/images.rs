//! Image files among many clients: whoever needs one has it.

use sha2::{Digest, Sha256};

use super::*;

/// What each client does, so many times.
const ROUNDS: usize = 25;
/// Contents, and clients for each.
const CONTENTS: u8 = 2;
const CLIENTS: usize = 2;

fn import(name: &str, source: &Path) -> Command {
    let import = json!({"name": name, "source": source, "format": "raw"});
    Command::ImageImport(serde_json::from_value(import).unwrap())
}

fn remove(name: &str) -> Command {
    Command::ImageRemove(name.parse().unwrap())
}

fn boot_from(name: &str, id: InstanceId) -> Command {
    let boot = json!({"id": id, "name": "x", "image": name, "vcpus": 1, "memory": 64 << 20});
    Command::Boot(serde_json::from_value(boot).unwrap())
}

fn rescue_with(name: &str, id: InstanceId) -> Command {
    Command::Rescue(serde_json::from_value(json!({"id": id, "image": name})).unwrap())
}

/// Import, then boot and remove at once, then clean up; others do the same with the same bytes.
async fn client(
    life: Arc<Life>,
    source: std::path::PathBuf,
    file: std::path::PathBuf,
    who: String,
) {
    for round in 0..ROUNDS {
        let name = format!("{who}-{round}");
        life.done(import(&name, &source)).await;
        assert!(file.exists(), "{name} is ready without its file");
        let id = InstanceId::random();
        let mut user = boot_from(&name, id);
        if round % 3 == 0 {
            // Its root is another image's; it is to be rescued with this one.
            life.done(boot_from("disk", id)).await;
            user = rescue_with(&name, id);
        }
        let (removal, boot) = match round % 2 {
            0 => tokio::join!(life.submit(remove(&name)), life.submit(user)),
            _ => {
                let removal = life.submit(remove(&name)).await;
                (removal, life.submit(user).await)
            }
        };
        if let Ok(removal) = &removal {
            assert_eq!(life.end_of(removal).await.state, State::Succeeded);
        }
        if let Ok(boot) = boot {
            let over = life.end_of(&boot).await;
            assert_eq!(over.state, State::Succeeded, "{over:#?}");
            assert!(file.exists(), "{name} has an instance and no file");
        }
        if life.compute.reads().instance(id).is_ok() {
            life.done(delete(id)).await;
        }
        if removal.is_err() {
            // Somebody else's instance may need it for a while.
            while let Err(fault) = life.submit(remove(&name)).await {
                assert_eq!(fault.reason, Reason::InUse, "{fault}");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_image_file_is_there_for_whoever_was_told_so() {
    let world = World::new();
    let life = Arc::new(world.furnished().await);
    let mut clients = Vec::new();
    for content in 0..CONTENTS {
        let bytes = vec![content + 1; 4096];
        let source = world.path().join(format!("{content}.raw"));
        std::fs::write(&source, &bytes).unwrap();
        let file = world.path().join(format!("images/{:x}.raw", Sha256::digest(&bytes)));
        for n in 0..CLIENTS {
            let (life, source, file) = (Arc::clone(&life), source.clone(), file.clone());
            let who = format!("c{content}-{n}");
            clients.push(tokio::spawn(client(life, source, file, who)));
        }
    }
    for client in clients {
        client.await.unwrap();
    }
}
