//! The same read while many guests are booted at once: as many messages as boots, on the processors
//! there are, which the guests are emulated on as well.
//!
//! The echo on a quorum queue is asked in turn with the agent, so what the broker and the scheduler
//! do to everybody is in both.

use std::time::Instant;

use ostler_tests::guest_image::Mode;
use ostler_tests::place::Place;
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::echo::Acknowledge;
use crate::error::Result;
use crate::figures::Series;
use crate::reads::{Asker, Floor, Target, pong, request};
use crate::report::{Line, Section, Unit};
use crate::stand::{Lab, Stand};

/// Between two pings: the asking is not to be the load.
const PAUSE: Duration = Duration::from_millis(5);

/// Who is asked.
struct Pings {
    asker: Asker,
    host: Target,
    floor: Floor,
    request: String,
}

/// What they took.
#[derive(Debug, Default)]
struct Times {
    ours: Series,
    floor: Series,
}

/// Ask before, and while many boot.
///
/// # Errors
/// If a ping is not answered, or a guest does not come up.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut stand = Stand::open(lab, &[Mode::Ostler]).await?;
    let place = Place::new("load")?;
    let mut asker = Asker::connect(lab.broker.uri()).await?;
    let host = Target::host(stand.agent.host());
    let request = request();
    let answer = asker.ask(&host, &request).await?;
    pong(&answer)?;
    let floor = asker.floor(lab, &place, "load", Acknowledge::First, answer.len()).await?;
    let mut pings = Pings { asker, host, floor, request };

    let mut idle = Times::default();
    for _ in 0..lab.settings.calls / 2 {
        pings.turn(&mut idle).await?;
    }
    let count = lab.settings.crowd;
    crate::tell(&format!("{count} boots at once"));
    let begun = Instant::now();
    let accepted = stand.ask_for_boots(Mode::Ostler, count).await?;
    let booting = async {
        for (id, operation) in accepted {
            stand.finished(operation).await?;
            stand.ready(id).await?;
        }
        Ok::<Duration, crate::error::Error>(begun.elapsed())
    };
    let mut busy = Times::default();
    let all = tokio::select! {
        all = booting => all?,
        error = pings.on(&mut busy) => return Err(error),
    };
    let Pings { asker, floor, .. } = pings;
    asker.leave(floor).await?;
    stand.close(lab).await?;

    let mut section = Section::new(format!("Many at once: {count} boots, until all are ready"));
    let ms = Unit::Milliseconds;
    let against = "an echo on a quorum queue, in turn";
    let line = Line::new("host.ping through the broker, before", ms, &idle.ours);
    section.line(line.against(against, &idle.floor));
    let line = Line::new("host.ping through the broker, meanwhile", ms, &busy.ours);
    section.line(line.against(against, &busy.floor));
    let took = Series::one(all.as_secs_f64() * 1000.0);
    section.line(Line::new("all are ready after", ms, &took));
    section.note("wanted: a p99 below 50 ms meanwhile");
    Ok(section)
}

impl Pings {
    async fn turn(&mut self, times: &mut Times) -> Result<()> {
        for (target, series) in
            [(&self.host, &mut times.ours), (&self.floor.target, &mut times.floor)]
        {
            let begun = Instant::now();
            self.asker.ask(target, &self.request).await?;
            series.took(begun.elapsed());
        }
        Ok(())
    }

    /// On and on, until one is not answered.
    async fn on(&mut self, times: &mut Times) -> crate::error::Error {
        let mut due = interval(PAUSE);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            if let Err(error) = self.turn(times).await {
                return error;
            }
        }
    }
}
