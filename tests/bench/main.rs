//! The benchmark: how long Ostler takes and how much it needs, always beside something else that was
//! measured in the same run: a peer, or the least that can be.
//!
//! ```text
//!   main ── settings      how much is measured
//!    ├── stand            a node, its network and guests; gone when dropped
//!    ├── boot ── by_hand  accepted -> running -> ready     against libvirt alone, QEMU alone
//!    ├── reads ── echo    host.ping on both transports     against servers that only answer
//!    ├── load             the same while many guests boot   against an echo behind a queue
//!    ├── isolation ── trouble   others, with one stuck     against the same without
//!    ├── operations       each operation                   against libvirt's own calls
//!    ├── storage          images and volumes               against curl, qemu-img, virsh
//!    ├── many             a thousand instances             against libvirt's answers, an echo
//!    ├── journal          a commit                         against a bare write
//!    ├── trips            guest-ping over Ostler's port    against libvirt's path, qemu-ga
//!    ├── starts           exec -> first answer, sizes      against an echo, qemu-ga
//!    ├── agents           ping, bulk, exec, crowds, memory  against qemu-ga
//!    ├── memory           idle, and with many guests       against an echo, qemu-ga
//!    └── figures, report  medians, ratios, the table and the file
//! ```
//!
//! Nothing here passes or fails by a time: machines differ, and so does what else they do. The exit
//! code says whether everything could be measured.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "sizes and counts far below 2^52"
)]

mod agents;
mod boot;
mod by_hand;
mod echo;
mod error;
mod figures;
mod isolation;
mod journal;
mod load;
mod many;
mod memory;
mod operations;
mod reads;
mod report;
mod settings;
mod stand;
mod starts;
mod storage;
mod trips;
mod trouble;

use std::fs;
use std::process::ExitCode;

use ostler_tests::interrupt::or_interrupted;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::report::{Report, Section};
use crate::settings::Settings;
use crate::stand::Lab;

fn main() -> ExitCode {
    if echo::serves() {
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime
        .map_err(Error::io("starting a runtime"))
        .and_then(|runtime| runtime.block_on(or_interrupted(run())));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            complain(&error.told());
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitCode> {
    let settings = Settings::from_env()?;
    let machine = machine().await;
    print(&format!("{machine:#}\n"));
    let mut report = Report::default();
    section("agents", &settings, &mut report, async || agents::measure(&settings).await).await?;
    section("journal", &settings, &mut report, async || journal::measure(&settings).await).await?;
    if SECTIONS.iter().any(|name| settings.wants(name)) {
        on_a_node(settings.clone(), &mut report).await?;
    }
    let path = report.keep(&settings, &machine)?;
    print(&format!("\nkept in {}\n", path.display()));
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What needs libvirt and a broker.
const SECTIONS: [&str; 10] = [
    "starts",
    "reads",
    "trips",
    "boot",
    "operations",
    "storage",
    "isolation",
    "load",
    "many",
    "memory",
];

async fn on_a_node(settings: Settings, report: &mut Report) -> Result<()> {
    tell("starting libvirt and a broker, baking the guest");
    let lab = Lab::open(settings).await?;
    let settings = &lab.settings;
    section("starts", settings, report, async || starts::measure(&lab).await).await?;
    section("reads", settings, report, async || reads::measure(&lab).await).await?;
    section("trips", settings, report, async || trips::measure(&lab).await).await?;
    section("boot", settings, report, async || boot::measure(&lab).await).await?;
    section("operations", settings, report, async || operations::measure(&lab).await).await?;
    section("storage", settings, report, async || storage::measure(&lab).await).await?;
    section("isolation", settings, report, async || isolation::measure(&lab).await).await?;
    section("load", settings, report, async || load::measure(&lab).await).await?;
    section("many", settings, report, async || many::measure(&lab).await).await?;
    section("memory", settings, report, async || memory::measure(&lab).await).await
}

/// One section: printed when it is there. One that cannot be measured does not keep the others from
/// being.
async fn section(
    name: &str,
    settings: &Settings,
    report: &mut Report,
    measure: impl AsyncFnOnce() -> Result<Section>,
) -> Result<()> {
    if !settings.wants(name) {
        return Ok(());
    }
    tell(name);
    let before = load_average();
    match measure().await {
        Ok(section) => {
            print(&section.table());
            report.measured(section, json!({"before": before, "after": load_average()}));
        }
        Err(error) => {
            let why = error.told();
            complain(&format!("{name} could not be measured: {why}"));
            report.failed(name, why);
        }
    }
    Ok(())
}

/// What it was measured on.
async fn machine() -> Value {
    let first = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    let version = async |program: &str, args: &[&str]| {
        Run::new(program).args(args.iter().copied()).stdout().await.map(first).unwrap_or_default()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let workspace = ostler_tests::programs::workspace();
    let revision = Run::new("git")
        .args(["-C".as_ref(), workspace.as_os_str()])
        .args(["describe", "--always", "--dirty"])
        .stdout()
        .await
        .map(first)
        .unwrap_or_default();
    json!({
        "revision": revision,
        "cpu": model.map(|(_, name)| name),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": version("uname", &["-r"]).await,
        "libvirt": version("virsh", &["--version"]).await,
        "qemu": version("qemu-system-x86_64", &["--version"]).await,
        "load": load_average(),
    })
}

/// The load averages.
fn load_average() -> Value {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let parts = text.split_whitespace().take(3).filter_map(|word| word.parse::<f64>().ok());
    parts.collect::<Vec<f64>>().into()
}

/// Say what is done now; it takes a while.
fn tell(what: &str) {
    #[expect(clippy::print_stderr, reason = "it is a program")]
    {
        eprintln!("bench: {what}");
    }
}

fn complain(what: &str) {
    tell(what);
}

fn print(text: &str) {
    #[expect(clippy::print_stdout, reason = "it is a program")]
    {
        print!("{text}");
    }
}
