//! The directory pool on a real file system, with the real qemu-img.

use ostler_protocol::rpc::image::Format as ImageFormat;

use super::*;
use crate::disk::{Base, Removed};

#[tokio::test]
async fn a_snapshot_is_as_large_as_the_disk_whatever_was_noted() {
    let pool = Trial::open().await;
    for format in [Format::Raw, Format::Qcow2] {
        let place = pool.made(Content::Empty, format).await;
        let opened = pool.pools.open(&place).await.unwrap();
        qemu_io(opened.path(), format, "truncate 12M");
        assert_eq!(pool.pools.open(&place).await.unwrap().size, Bytes::mib(12));
        pool.pools.snapshot(&place, &name("a")).await.unwrap();
        assert_eq!(pool.pools.open(&place).await.unwrap().size, Bytes::mib(12));
        pool.pools.revert(&place, &name("a")).await.unwrap();
        assert_eq!(pool.pools.open(&place).await.unwrap().size, Bytes::mib(12));
    }
}

#[tokio::test]
async fn what_was_written_before_a_snapshot_comes_back_with_it() {
    let pool = Trial::open().await;
    for format in [Format::Raw, Format::Qcow2] {
        let place = pool.made(Content::Empty, format).await;
        write(&pool, &place, 1).await;
        let (a, b) = (name("a"), name("b"));
        assert_eq!(pool.pools.snapshot(&place, &a).await.unwrap(), Ensured::Created);
        assert_eq!(pool.pools.snapshot(&place, &a).await.unwrap(), Ensured::AlreadyThere);
        holds(&pool, &place, 1).await;
        write(&pool, &place, 2).await;
        pool.pools.snapshot(&place, &b).await.unwrap();
        write(&pool, &place, 3).await;
        pool.pools.revert(&place, &a).await.unwrap();
        holds(&pool, &place, 1).await;
        pool.pools.revert(&place, &b).await.unwrap();
        holds(&pool, &place, 2).await;
        assert_eq!(pool.pools.delete_snapshot(&place, &a).await.unwrap(), Removed::Removed);
        assert_eq!(pool.pools.delete_snapshot(&place, &a).await.unwrap(), Removed::AlreadyGone);
        holds(&pool, &place, 2).await;
        pool.pools.delete_snapshot(&place, &b).await.unwrap();
        holds(&pool, &place, 2).await;
        assert_eq!(
            pool.files(&place).len(),
            2,
            "one layer, and the manifest: {:?}",
            pool.files(&place)
        );
        assert_eq!(pool.pools.delete(&place).await.unwrap(), Removed::Removed);
        assert_eq!(pool.pools.delete(&place).await.unwrap(), Removed::AlreadyGone);
        assert!(!pool.pools.exists(&place).await.unwrap());
    }
}

#[tokio::test]
async fn a_clone_of_a_snapshot_is_a_disk_of_its_own() {
    let pool = Trial::open().await;
    let place = pool.made(Content::Empty, Format::Raw).await;
    write(&pool, &place, 1).await;
    pool.pools.snapshot(&place, &name("a")).await.unwrap();
    write(&pool, &place, 2).await;
    let of = |snapshot| Content::Volume { place: place.clone(), snapshot };
    for format in [Format::Raw, Format::Qcow2] {
        let then = pool.made(of(Some(name("a"))), format).await;
        let now = pool.made(of(None), format).await;
        holds(&pool, &then, 1).await;
        holds(&pool, &now, 2).await;
    }
    pool.pools.delete(&place).await.unwrap();
}

#[tokio::test]
async fn a_volume_grows_with_what_it_holds() {
    let pool = Trial::open().await;
    for format in [Format::Raw, Format::Qcow2] {
        let place = pool.made(Content::Empty, format).await;
        write(&pool, &place, 1).await;
        let larger = Bytes::mib(16);
        assert_eq!(pool.pools.extend(&place, larger).await.unwrap(), Ensured::Created);
        assert_eq!(pool.pools.extend(&place, larger).await.unwrap(), Ensured::AlreadyThere);
        holds(&pool, &place, 1).await;
        let opened = pool.pools.open(&place).await.unwrap();
        assert_eq!(opened.size, larger);
        qemu_io(opened.path(), opened.format, "read -P 0 15M 64k");
    }
}

#[tokio::test]
async fn what_a_guest_writes_into_a_raw_volume_is_never_taken_for_a_format() {
    let pool = Trial::open().await;
    let place = pool.made(Content::Empty, Format::Raw).await;
    let secret = pool.folder.path().join("secret");
    fs::write(&secret, vec![b's'; 1 << 20]).unwrap();
    // A qcow2 header whose base is a file of the node.
    let hostile = crate::qcow2::overlay(Bytes::mib(1), secret.to_str().unwrap(), "raw").unwrap();
    let path = pool.pools.open(&place).await.unwrap().path().to_owned();
    let mut bytes = fs::read(&path).unwrap();
    for (at, piece) in &hostile.pieces {
        bytes[*at as usize..*at as usize + piece.len()].copy_from_slice(piece);
    }
    fs::write(&path, &bytes).unwrap();
    pool.pools.snapshot(&place, &name("a")).await.unwrap();
    pool.pools.extend(&place, Bytes::mib(9)).await.unwrap();
    let clone = pool.made(Content::Volume { place: place.clone(), snapshot: None }, Format::Raw);
    let mut small =
        pool.new_volume(Content::Volume { place: place.clone(), snapshot: None }, Format::Raw);
    assert!(matches!(pool.make(&small).await, Err(VolumeError::TooSmall { .. })));
    small.size = Bytes::mib(9);
    drop(clone);
    pool.make(&small).await.unwrap();
    pool.pools.revert(&place, &name("a")).await.unwrap();
    pool.pools.delete_snapshot(&place, &name("a")).await.unwrap();
    for place in [&place, &small.place] {
        let opened = pool.pools.open(place).await.unwrap();
        let dump = qemu_io(opened.path(), opened.format, "read -v 0 512");
        assert!(dump.contains("51 46 49 fb"), "the guest's own bytes: {dump}");
    }
}

#[tokio::test]
async fn a_volume_from_an_image_is_as_large_as_asked() {
    let pool = Trial::open().await;
    let image = pool.folder.path().join("image.raw");
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20..(1 << 20) + (64 << 10)].fill(7);
    fs::write(&image, bytes).unwrap();
    let base = Base { path: image, format: ImageFormat::Raw, virtual_size: Bytes::mib(4) };
    for format in [Format::Raw, Format::Qcow2] {
        let place = pool.made(Content::Image(base.clone()), format).await;
        holds(&pool, &place, 7).await;
        let opened = pool.pools.open(&place).await.unwrap();
        qemu_io(opened.path(), opened.format, "read -P 0 7M 64k");
    }
}

#[tokio::test]
async fn what_is_open_is_not_removed() {
    let pool = Trial::open().await;
    let place = pool.made(Content::Empty, Format::Qcow2).await;
    let opened = pool.pools.open(&place).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test needs another process")]
    let mut holder = std::process::Command::new("tail")
        .args(["-f", "/dev/null"])
        .stdin(fs::File::open(opened.path()).unwrap())
        .spawn()
        .unwrap();
    let refused = pool.pools.delete(&place).await;
    assert!(
        matches!(&refused, Err(VolumeError::Open { by, .. }) if by.contains(&holder.id().to_string())),
        "{refused:?}"
    );
    assert!(pool.pools.extend(&place, Bytes::mib(9)).await.is_err());
    holder.kill().unwrap();
    holder.wait().unwrap();
    pool.pools.delete(&place).await.unwrap();
}

#[tokio::test]
async fn what_was_cut_off_is_made_again() {
    let pool = Trial::open().await;
    let volume = pool.new_volume(Content::Empty, Format::Qcow2);
    let folder = pool.folder.path().join("volumes").join(volume.place.id.to_string());
    // A crash before the manifest was written.
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".0.qcow2.new"), "half").unwrap();
    assert!(matches!(pool.pools.open(&volume.place).await, Err(VolumeError::Gone { .. })));
    assert_eq!(pool.make(&volume).await.unwrap(), Ensured::Created);
    // A crash before a snapshot was noted.
    fs::write(folder.join("1.qcow2"), "half").unwrap();
    pool.pools.snapshot(&volume.place, &name("a")).await.unwrap();
    write(&pool, &volume.place, 1).await;
    pool.pools.undo_snapshot(&volume.place, &name("b")).await.unwrap();
    holds(&pool, &volume.place, 1).await;
}

#[tokio::test]
async fn a_disk_is_encrypted_though_the_processor_s_speed_cannot_be_told_at_once() {
    let mut pool = Trial::open().await;
    let fake = pool.folder.path().join("qemu-img");
    let script = "if [ \"$(cat \"$0.tries\" 2>/dev/null)\" != 11 ]; then printf 1 >>\"$0.tries\"; \
                  echo 'Unable to get accurate CPU usage' >&2; exit 1; fi\nexec qemu-img \"$@\"";
    stand_in(&fake, script);
    let Pool::Directory(directory) = &mut pool.pools.0[0] else { panic!() };
    directory.qemu_img = fake;
    let passphrase = Some(Secret::new("word".to_owned()));
    let volume = NewVolume { passphrase, ..pool.new_volume(Content::Empty, Format::Luks) };
    assert_eq!(pool.make(&volume).await.unwrap(), Ensured::Created);
    assert_eq!(pool.pools.open(&volume.place).await.unwrap().size, Bytes::mib(8));
}
