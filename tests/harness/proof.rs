//! The harness proved on the real services, so that a failing system test
//! points at the product: libvirtd, RabbitMQ, a baked guest on QEMU.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test's own functions")]

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties, ExchangeKind};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use ostler_tests::console::{Console, Login, pty_of};
use ostler_tests::guest_image::{DEMO, GuestImage, Mode, ROOT};
use ostler_tests::place::Place;
use ostler_tests::process::Run;
use ostler_tests::rpc::{Amqp, Call, Client};
use ostler_tests::services::{Broker, Libvirt, OwnLibvirt, SYSTEM};
use ostler_tests::world::{World, leftovers};
use ostler_tests::{Error, poll};
use serde_json::{Value, json};
use uuid::Uuid;

const BOOT: Duration = Duration::from_secs(120);

/// True, having said why, where libvirt and QEMU are out of reach.
fn skipped() -> bool {
    let skip = !Uid::effective().is_root();
    if skip {
        eprintln!("skipped: only root can start libvirtd and use qemu:///system");
    }
    skip
}

async fn virsh(args: &[&str]) -> ostler_tests::Result<String> {
    Run::new("virsh").args(["-q", "-c", "qemu:///system"]).args(args).stdout().await
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirtd_stays_until_its_last_user() {
    if skipped() {
        return;
    }
    let first = Libvirt::ensure().await.unwrap();
    let _second = Libvirt::ensure().await.unwrap();
    virsh(&["list"]).await.unwrap();
    drop(first);
    virsh(&["list"]).await.expect("the second still uses it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_libvirtd_of_ones_own_stops_hangs_and_comes_back_and_nobody_knows() {
    if skipped() {
        return;
    }
    let _shared = Libvirt::ensure().await.unwrap();
    let mut own = OwnLibvirt::start().await.unwrap();
    let uri = own.uri().to_owned();
    let asks = async || {
        let list = Run::new("virsh").args(["-q", "-c", &uri, "list"]);
        list.patience(Duration::from_secs(2)).stdout().await
    };
    asks().await.unwrap();
    own.stop().await.unwrap();
    asks().await.expect_err("it is stopped");
    virsh(&["list"]).await.expect("the other one is not");
    own.start_again().await.unwrap();
    asks().await.unwrap();
    own.signal(Signal::SIGSTOP).unwrap();
    let hung = asks().await.expect_err("it hangs");
    assert!(matches!(hung, Error::TimedOut { .. }), "{hung}");
    own.signal(Signal::SIGCONT).unwrap();
    asks().await.unwrap();
    own.kill().await.unwrap();
    own.start_again().await.unwrap();
    asks().await.unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "the broker is looked at without the harness's own client"
)]
async fn connect(broker: &Broker) -> Connection {
    Connection::connect(broker.uri(), ConnectionProperties::default()).await.unwrap()
}

/// The messages in a durable quorum queue, which is made if it is not there.
async fn depth(connection: &Connection, name: &str) -> u32 {
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.unwrap().message_count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_broker_keeps_its_messages_across_a_restart_and_a_crash() {
    let mut broker = Broker::private().await.unwrap();
    let connection = connect(&broker).await;
    assert_eq!(depth(&connection, "kept").await, 0);
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
    let persistent = BasicProperties::default().with_delivery_mode(2);
    channel
        .basic_publish("".into(), "kept".into(), BasicPublishOptions::default(), b"hay", persistent)
        .await
        .unwrap()
        .await
        .unwrap();

    broker.restart().await.unwrap();
    let messages = async |broker: &Broker| {
        let connection = connect(broker).await;
        poll::until("the message is there", BOOT, async || match depth(&connection, "kept").await {
            1 => Ok(()),
            count => Err(format!("{count} messages")),
        })
        .await
    };
    messages(&broker).await.unwrap();

    broker.kill().await.unwrap();
    broker.start().await.unwrap();
    messages(&broker).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_private_brokers_do_not_meet() {
    let (first, second) = tokio::join!(Broker::private(), Broker::private());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.uri(), second.uri());
    drop(first);
    assert_eq!(depth(&connect(&second).await, "alone").await, 0);
}

/// A host that answers each request with its own parameters, and says `done`.
async fn answer_one(connection: &Connection, host: &str) {
    let channel = connection.create_channel().await.unwrap();
    let queue = format!("ostler.host.{host}");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for (name, kind) in
        [("ostler.rpc", ExchangeKind::Direct), ("ostler.events", ExchangeKind::Topic)]
    {
        channel.exchange_declare(name.into(), kind, durable, FieldTable::default()).await.unwrap();
    }
    depth(connection, &queue).await;
    let options = QueueBindOptions::default();
    channel
        .queue_bind(
            queue.as_str().into(),
            "ostler.rpc".into(),
            host.into(),
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut requests = channel
        .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
        .await
        .unwrap();
    tokio::spawn(async move {
        let request = requests.next().await.unwrap().unwrap();
        let body: Value = serde_json::from_slice(&request.data).unwrap();
        let answer = json!({"jsonrpc": "2.0", "id": body["id"], "result": body["params"]});
        let to = request.properties.reply_to().clone().unwrap();
        let options = BasicPublishOptions::default();
        let plain = BasicProperties::default();
        let bytes = answer.to_string().into_bytes();
        channel.basic_publish("".into(), to, options, &bytes, plain.clone()).await.unwrap();
        let key = json!({"key": request.properties.message_id().as_ref().map(ToString::to_string)});
        let bytes = key.to_string().into_bytes();
        let topic = "operation.any.1";
        channel
            .basic_publish("ostler.events".into(), topic.into(), options, &bytes, plain)
            .await
            .unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_the_broker_is_answered_and_its_event_seen() {
    let broker = Broker::ensure().await.unwrap();
    let host = format!("proof-{}", Uuid::new_v4().simple());
    let nobody = Amqp::connect(broker.uri(), "nobody-of-this-name").await.unwrap();
    let connection = connect(&broker).await;
    answer_one(&connection, &host).await;
    let lost = nobody.publish_raw(b"{}", BasicProperties::default()).await.unwrap_err();
    assert!(lost.to_string().contains("no queue"), "{lost}");

    let mut events = nobody.events("operation.#").await.unwrap();
    let mut client = Client::amqp(broker.uri(), &host).await.unwrap();
    let call = Call::new("host.echo", json!({"hay": 7})).key("key-1");
    assert_eq!(client.send(&call).await.unwrap(), json!({"hay": 7}));
    let event = events.next(BOOT, |event| event["key"] == "key-1").await.unwrap();
    assert_eq!(event, json!({"key": "key-1"}));
    broker.forget_host(&host).await.unwrap();
}

/// A domain of libvirt's, without any of our programs, gone when dropped.
struct Domain {
    id: String,
    _place: Place,
}

impl Domain {
    async fn boot(image: &GuestImage, mode: Mode) -> Self {
        let place = Place::new("domain").unwrap();
        let disk = place.join("disk.qcow2");
        Run::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([image.root.as_path(), disk.as_path()])
            .stdout()
            .await
            .unwrap();
        let id = Uuid::new_v4().to_string();
        let file = place.write("domain.xml", xml(&id, image, &disk, mode)).unwrap();
        virsh(&["create", &file.to_string_lossy()]).await.unwrap();
        Self { id, _place: place }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let mut destroy = ostler_tests::process::command("virsh");
        destroy.args(["-q", "-c", "qemu:///system", "destroy", &self.id]);
        let _gone = destroy.status();
    }
}

fn xml(id: &str, image: &GuestImage, disk: &Path, mode: Mode) -> String {
    format!(
        "<domain type='qemu'><name>ostler-proof-{id}</name><uuid>{id}</uuid>
         <memory unit='MiB'>192</memory><vcpu>1</vcpu>
         <os><type machine='q35'>hvm</type><kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline></os>
         <features><acpi/></features><on_poweroff>destroy</on_poweroff>
         <devices>
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>
         <target dev='vda' bus='virtio'/><serial>proof-disk</serial></disk>
         <serial type='pty'/>
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
         <channel type='unix'><source mode='bind'/><target type='virtio' name='org.ostler.guest.0'/></channel>
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
         </devices></domain>",
        image.kernel.display(),
        image.initramfs.display(),
        image.cmdline(mode),
        disk.display(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baked_guest_serves_the_stock_agent_and_takes_the_passwords_it_sets() {
    if skipped() {
        return;
    }
    let _libvirt = Libvirt::ensure().await.unwrap();
    let image = GuestImage::bake_without_agent().await.unwrap();
    let before = World::look(&[]).await.unwrap();
    let domain = Domain::boot(&image, Mode::QemuGa).await;
    let found = leftovers(std::slice::from_ref(&domain.id), &[]).await.unwrap();
    assert_eq!((found.domains.len(), found.machines.len()), (1, 1), "{found}");

    let pty = pty_of(SYSTEM, &domain.id, BOOT).await.unwrap();
    let Login::Refused(console) =
        Console::open(&pty).unwrap().login(ROOT.user, "not the password").await.unwrap()
    else {
        panic!("a wrong password was taken")
    };
    let mut session = console.login(ROOT.user, ROOT.password).await.unwrap().session().unwrap();
    assert_eq!(session.ask("id -un").await.unwrap(), "root");
    assert_eq!(session.run("echo hay; false").await.unwrap().code, 1);
    assert_eq!(session.ask("echo a; echo b >&2").await.unwrap(), "a\nb");
    let serial = "readlink -f /dev/disk/by-id/virtio-proof-disk";
    assert_eq!(session.ask(serial).await.unwrap(), "/dev/vda");

    let password = "{\"execute\":\"guest-set-user-password\",\"arguments\":\
                    {\"username\":\"demo\",\"password\":\"bmV3IGhheQ==\",\"crypted\":false}}";
    virsh(&["qemu-agent-command", &domain.id, password]).await.unwrap();
    let console = session.logout().await.unwrap();
    let Login::Refused(console) = console.login(DEMO.user, DEMO.password).await.unwrap() else {
        panic!("the old password was taken")
    };
    let mut session = console.login(DEMO.user, "new hay").await.unwrap().session().unwrap();
    assert_eq!(session.ask("id -un; pwd").await.unwrap(), "demo\n/home/demo");

    // its power button works without any agent
    virsh(&["shutdown", &domain.id, "--mode", "acpi"]).await.unwrap();
    poll::until("the guest is off", BOOT, async || {
        match leftovers(std::slice::from_ref(&domain.id), &[]).await {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => Err(left.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap();
    let left = World::look(&[]).await.unwrap().beyond(&before).of(std::slice::from_ref(&domain.id));
    assert!(left.is_empty(), "{left}");
}
