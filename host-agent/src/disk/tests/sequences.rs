//! Any sequence of operations on disks, each done once or again, with what crashes leave between
//! them, against a model of two places.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    CreateRoot,
    SetAside,
    CopyAside,
    PutBack,
    DropAside,
    /// A crash left half a copy, or a second name of the disk that is aside.
    HalfCopy,
    SecondName,
}

/// Which disk is in a place: the guest's own, or one made since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Guests,
    Fresh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Places {
    root: Option<Disk>,
    aside: Option<Disk>,
}

impl Places {
    fn after(self, step: Step) -> Self {
        let Self { root, aside } = self;
        match step {
            Step::CreateRoot => Self { root: root.or(Some(Disk::Fresh)), aside },
            Step::SetAside if aside.is_none() => Self { root: None, aside: root },
            Step::CopyAside => Self { root, aside: aside.or(root) },
            Step::PutBack => Self { root: aside.or(root), aside: None },
            Step::DropAside => Self { root, aside: None },
            Step::SetAside | Step::HalfCopy | Step::SecondName => self,
        }
    }
}

const WRITTEN: &[u8] = b"what the guest wrote";

fn seen(path: &Path) -> Option<Disk> {
    let bytes = fs::read(path).ok()?;
    Some(if bytes.ends_with(WRITTEN) { Disk::Guests } else { Disk::Fresh })
}

async fn run(bench: &Bench, steps: &[(Step, usize)]) -> Result<(), TestCaseError> {
    let root = bench.raw_root(Bytes::mib(16));
    let (disks, instance) = (&bench.disks, root.instance);
    let files = disks.files(instance);
    disks.create_root(&root).await.unwrap();
    let mut bytes = fs::read(&files.root).unwrap();
    bytes.extend(WRITTEN);
    fs::write(&files.root, bytes).unwrap();
    let unfinished = files.folder.join(".disk.aside.qcow2.new");
    let mut model = Places { root: Some(Disk::Guests), aside: None };
    for (step, times) in steps {
        for _ in 0..*times {
            let (told, cancel) = (watch::Sender::default(), CancellationToken::new());
            // Some are refused; what counts is where the disks are.
            match step {
                Step::CreateRoot => drop(disks.create_root(&root).await),
                Step::SetAside => drop(disks.set_aside(instance).await),
                Step::CopyAside => drop(disks.copy_aside(instance, &told, &cancel).await),
                Step::PutBack => drop(disks.put_back(instance).await),
                Step::DropAside => drop(disks.drop_aside(instance).await),
                Step::HalfCopy => {
                    fs::remove_file(&unfinished).ok();
                    fs::write(&unfinished, b"half").unwrap();
                }
                Step::SecondName => {
                    fs::remove_file(&unfinished).ok();
                    fs::hard_link(&files.aside, &unfinished).ok();
                }
            }
            model = model.after(*step);
            let places = Places { root: seen(&files.root), aside: seen(&files.aside) };
            prop_assert_eq!(places, model, "after {:?} in {:?}", step, steps);
        }
    }
    disks.remove_instance(instance).await.unwrap();
    prop_assert!(!files.folder.exists());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_guests_disk_is_where_the_steps_put_it(
        steps in prop::collection::vec(
            (
                prop_oneof![
                    Just(Step::CreateRoot),
                    Just(Step::SetAside),
                    Just(Step::CopyAside),
                    Just(Step::PutBack),
                    Just(Step::DropAside),
                    Just(Step::HalfCopy),
                    Just(Step::SecondName),
                ],
                1usize..3,
            ),
            1..10,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { run(&bench().await, &steps).await })?;
    }
}
