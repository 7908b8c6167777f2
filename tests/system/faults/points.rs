//! The points of a plan, and what a crash at each must come to.

use ostler_protocol::rpc::operation::Kind;
use ostler_tests::rpc::CallError;
use serde_json::{Value, json};

use super::lane::{Asked, Lane, USERS, Wrong, byte};
use super::scenarios::{About, ENDS_QEMU, Fate, Scenario, may_be_interrupted};
use super::tally::{Ended, Tally};

/// What is allowed beyond what a crash may come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Leave {
    /// It may end as failed, if it says what to do next.
    pub(super) fail: bool,
    /// Its QEMU was killed: it may be off.
    pub(super) off: bool,
}

/// The steps of a scenario's plan, and which of them an undo takes back.
pub(super) struct Plan {
    pub(super) steps: Vec<String>,
    /// The last step after which the operation is undone when it fails, and the steps that are
    /// taken back then.
    undo: Option<(String, Vec<String>)>,
}

impl Lane {
    /// Try every point of a scenario's plan.
    pub(super) async fn crashes(&mut self, scenario: &Scenario, tally: &mut Tally) {
        let Some(plan) = self.plan(scenario, tally).await else { return };
        let kind = scenario.kind;
        let mut points = vec![("accepted".to_owned(), None)];
        for step in &plan.steps {
            for moment in ["before", "after"] {
                points.push((format!("{moment}|{kind}|{step}|kill"), Some(step)));
            }
        }
        points[0].0 = format!("accepted|{kind}|*|kill");
        for moment in ["settling", "settled"] {
            points.push((format!("{moment}|{kind}|*|kill"), None));
        }
        for (rule, step) in points {
            let came = self.crash(scenario, std::slice::from_ref(&rule)).await;
            if let Some(step) = step {
                tally.hit(kind, step);
            }
            self.note("kill -9", scenario, &rule, came, tally).await;
        }
        let Some((last, undone)) = &plan.undo else { return };
        for step in undone {
            for moment in ["undo-before", "undo-after"] {
                let rules =
                    [format!("after|{kind}|{last}|fail"), format!("{moment}|{kind}|{step}|kill")];
                let came = self.crash(scenario, &rules).await;
                self.note("kill -9 in an undo", scenario, &rules[1], came, tally).await;
            }
        }
    }

    /// One crash at each step, one after the other, in a single operation: the short form.
    pub(super) async fn crash_after_crash(&mut self, scenario: &Scenario, tally: &mut Tally) {
        let came = self.chained(scenario, tally).await;
        self.note("kill -9, again and again", scenario, "every step", came, tally).await;
    }

    async fn chained(
        &mut self,
        scenario: &Scenario,
        tally: &mut Tally,
    ) -> Result<Ended, Vec<Wrong>> {
        let one = |wrong: Wrong| vec![wrong];
        let kind = scenario.kind;
        let asked = self.prepare(scenario).await.map_err(one)?;
        self.rules(&[format!("accepted|{kind}|*|kill")]);
        let _lost = self.ask(&asked).await;
        self.agent_is(&['Z']).await.map_err(one)?;
        let mut crashes = 1;
        // It stands at its first step when it is asked what it is about to do.
        let steps = if scenario.has_steps() {
            self.rules(&[format!("before|{kind}|*|hold")]);
            self.again().await.map_err(one)?;
            names_of(&self.ask(&asked).await.map_err(|error| vec![error.to_string()])?)
        } else {
            self.node.agent.kill().await.map_err(|error| vec![error.to_string()])?;
            crashes += 1;
            Vec::new()
        };
        // What is not asked twice ends at the first crash.
        let steps =
            if scenario.is_asked_once() { &steps[..steps.len().min(1)] } else { &steps[..] };
        for (n, step) in steps.iter().enumerate() {
            tally.hit(kind, step);
            for moment in ["before", "after"] {
                if (n, moment) == (0, "before") || (n, scenario.is_asked_once()) == (1, true) {
                    continue;
                }
                self.rules(&[format!("{moment}|{kind}|{step}|kill")]);
                if crashes > 1 {
                    self.node.agent.launch().map_err(|error| vec![error.to_string()])?;
                }
                self.dead().await.map_err(one)?;
                crashes += 1;
            }
        }
        let last = if scenario.is_asked_once() { &[][..] } else { &["settling", "settled"][..] };
        for moment in last {
            self.rules(&[format!("{moment}|{kind}|*|kill")]);
            if crashes > 1 {
                self.node.agent.launch().map_err(|error| vec![error.to_string()])?;
            }
            self.dead().await.map_err(one)?;
            crashes += 1;
        }
        self.rules(&[]);
        self.again().await.map_err(one)?;
        tally.more("kill -9, again and again", crashes);
        let operation = self.ask(&asked).await.map_err(|error| vec![error.to_string()])?;
        let over = self.over(&operation, scenario.patience()).await.map_err(one)?;
        self.judge(scenario, &asked, &over, Leave::default()).await
    }

    /// Wait for the agent's death.
    async fn dead(&mut self) -> Result<(), Wrong> {
        self.agent_is(&['Z']).await?;
        self.node.agent.kill().await.map_err(|error| error.to_string())
    }

    /// Have each step of a scenario's plan fail: before it has done anything, and when it has done
    /// all.
    pub(super) async fn fails(&mut self, scenario: &Scenario, tally: &mut Tally) {
        let Some(steps) = self.steps_of(scenario, tally).await else { return };
        for step in &steps {
            for moment in ["before", "after"] {
                let rule = format!("{moment}|{}|{step}|fail", scenario.kind);
                let failed = self.failed(scenario, &rule).await;
                let came = failed.map(|(ended, _)| ended);
                tally.hit(scenario.kind, step);
                self.note("the step fails", scenario, &rule, came, tally).await;
            }
        }
    }

    /// Do it once without any fault: its steps.
    async fn steps_of(&mut self, scenario: &Scenario, tally: &mut Tally) -> Option<Vec<String>> {
        let (steps, came) = match self.whole(scenario).await {
            Ok((steps, ended)) => (steps, Ok(ended)),
            Err(wrongs) => (Vec::new(), Err(wrongs)),
        };
        let ok = matches!(came, Ok(Ended::Finished));
        self.note("none", scenario, "as it is", came, tally).await;
        ok.then_some(steps)
    }

    /// Its steps, and what undoing does: the last step after which it is undone is found by having
    /// them fail.
    async fn plan(&mut self, scenario: &Scenario, tally: &mut Tally) -> Option<Plan> {
        let steps = self.steps_of(scenario, tally).await?;
        for step in steps.iter().rev() {
            let rule = format!("after|{}|{step}|fail", scenario.kind);
            let failed = self.failed(scenario, &rule).await;
            let (came, taken_back) = match failed {
                Ok((ended, taken_back)) => (Ok(ended), taken_back),
                Err(wrongs) => (Err(wrongs), Vec::new()),
            };
            let is_undone = came == Ok(Ended::Undone);
            self.note("the step fails", scenario, &rule, came, tally).await;
            if is_undone {
                let undo = Some((step.clone(), taken_back));
                return Some(Plan { steps, undo });
            }
        }
        Some(Plan { steps, undo: None })
    }

    async fn whole(&mut self, scenario: &Scenario) -> Result<(Vec<String>, Ended), Vec<Wrong>> {
        let one = |wrong: Wrong| vec![wrong];
        self.rules(&[]);
        let asked = self.prepare(scenario).await.map_err(one)?;
        let operation = self.ask(&asked).await.map_err(|error| vec![error.to_string()])?;
        let over = self.over(&operation, scenario.patience()).await.map_err(one)?;
        let ended = self.judge(scenario, &asked, &over, Leave::default()).await?;
        Ok((names_of(&operation), ended))
    }

    async fn failed(
        &mut self,
        scenario: &Scenario,
        rule: &str,
    ) -> Result<(Ended, Vec<String>), Vec<Wrong>> {
        let one = |wrong: Wrong| vec![wrong];
        let asked = self.prepare(scenario).await.map_err(one)?;
        self.rules(&[rule.to_owned()]);
        let operation = self.ask(&asked).await.map_err(|error| vec![error.to_string()])?;
        let over = self.over(&operation, scenario.patience()).await.map_err(one)?;
        self.rules(&[]);
        let leave = Leave { fail: true, ..Leave::default() };
        let ended = self.judge(scenario, &asked, &over, leave).await?;
        let undone = over["steps"].as_array().into_iter().flatten();
        let undone = undone.filter(|step| step["state"] == "undone");
        Ok((ended, undone.filter_map(|s| s["name"].as_str().map(str::to_owned)).collect()))
    }

    /// Die where the rules say, start again, and see what becomes of it.
    async fn crash(&mut self, scenario: &Scenario, rules: &[String]) -> Result<Ended, Vec<Wrong>> {
        let one = |wrong: Wrong| vec![wrong];
        let asked = self.prepare(scenario).await.map_err(one)?;
        self.rules(rules);
        match self.ask(&asked).await {
            Ok(_) | Err(CallError::Lost(_)) => {}
            Err(error) => return Err(vec![error.to_string()]),
        }
        let died = self.agent_is(&['Z']).await;
        self.rules(&[]);
        died.map_err(one)?;
        self.again().await.map_err(one)?;
        // Who asks again under the same key gets the same operation.
        let operation = self.ask(&asked).await.map_err(|error| vec![error.to_string()])?;
        let over = self.over(&operation, scenario.patience()).await.map_err(one)?;
        self.judge(scenario, &asked, &over, Leave::default()).await
    }

    /// Write down how a point ended; after a wrong one the lane begins afresh.
    pub(super) async fn note(
        &mut self,
        fault: &str,
        scenario: &Scenario,
        point: &str,
        came: Result<Ended, Vec<Wrong>>,
        tally: &mut Tally,
    ) {
        let wrong = came.is_err();
        tally.tried(fault, &format!("{}: {point}", scenario.name()), came);
        self.rules(&[]);
        if wrong && let Err(error) = self.afresh().await {
            eprintln!("the lane cannot begin afresh: {error}");
        } else if scenario.once
            && let Err(error) = self.drop_instance().await
        {
            eprintln!("the instance could not be deleted: {error}");
        }
    }

    /// Whatever happened: an agent that answers, and no instance.
    async fn afresh(&mut self) -> Result<(), Wrong> {
        self.again().await?;
        let listed = self.call("operation.list", json!({})).await?;
        for operation in listed.as_array().into_iter().flatten() {
            // What does not end was told already.
            let _over = self.over(operation, super::AFRESH).await;
        }
        let forgotten = self.drop_instance().await;
        for id in self.ever.clone() {
            self.remove(&id).await?;
        }
        forgotten
    }

    /// Whether the outcome is one of those there may be, and the world fits it.
    pub(super) async fn judge(
        &mut self,
        scenario: &Scenario,
        asked: &Asked,
        over: &Value,
        leave: Leave,
    ) -> Result<Ended, Vec<Wrong>> {
        let mut wrongs = Vec::new();
        let next = over["error"]["data"]["next"].as_str().unwrap_or_default();
        let interrupted = over["error"]["data"]["reason"] == "interrupted";
        let ended = match over["state"].as_str().unwrap_or_default() {
            "succeeded" => Ended::Finished,
            "undone" => Ended::Undone,
            "cancelled" => Ended::Cancelled,
            _ => Ended::Told,
        };
        if ended != Ended::Finished && next.is_empty() && ended != Ended::Cancelled {
            wrongs.push(format!("it does not say what to do next: {}", over["error"]));
        }
        if ended == Ended::Told
            && !leave.fail
            && !(interrupted && may_be_interrupted(scenario.kind))
        {
            wrongs.push(format!("it failed: {}", over["error"]));
        }
        let looked = match scenario.about {
            About::Instance | About::NewInstance => {
                self.instance_fits(scenario, asked, over, ended, leave).await
            }
            About::Image => self.image_fits(scenario, asked, ended).await,
            About::Network => self.network_fits(scenario, asked, ended).await,
            About::Volume => self.volume_fits(scenario, asked, ended).await,
            About::Port => self.port_fits(scenario, asked, ended).await,
        };
        match looked {
            Ok(found) => wrongs.extend(found),
            Err(error) => wrongs.push(error),
        }
        match self.audit().await {
            Ok(found) => wrongs.extend(found),
            Err(error) => wrongs.push(error),
        }
        if scenario.about == About::NewInstance
            && wrongs.is_empty()
            && let Err(error) = self.remove(&asked.subject).await
        {
            wrongs.push(error);
        }
        if wrongs.is_empty() { Ok(ended) } else { Err(wrongs) }
    }

    /// What the instance should be like now.
    async fn instance_fits(
        &mut self,
        scenario: &Scenario,
        asked: &Asked,
        over: &Value,
        ended: Ended,
        leave: Leave,
    ) -> Result<Vec<Wrong>, Wrong> {
        let mut wrongs = Vec::new();
        let shown = self.show(&asked.subject).await?;
        let state = shown["vm_state"].as_str().unwrap_or_default().to_owned();
        let new = scenario.about == About::NewInstance;
        let before = asked.before["vm_state"].as_str().unwrap_or_default();
        let mut states = match ended {
            Ended::Finished => vec![scenario.then],
            Ended::Undone if new => vec!["error"],
            Ended::Cancelled if new => vec!["deleted"],
            Ended::Undone | Ended::Cancelled => vec![before],
            Ended::Told => vec![before, scenario.then, "error"],
        };
        // A reboot that fails may have switched it off already.
        if leave.off || (ended == Ended::Told && scenario.kind == Kind::Reboot) {
            states.push("stopped");
        }
        if !states.contains(&state.as_str()) {
            wrongs.push(format!("the instance is {state}, not {states:?}: {}", shown["fault"]));
        }
        let powered =
            |shown: &Value| matches!(shown["power_state"].as_str(), Some("running" | "paused"));
        let was_undone = matches!(ended, Ended::Undone | Ended::Cancelled) && !new;
        if was_undone && !leave.off && powered(&shown) != powered(&asked.before) {
            wrongs.push(format!(
                "its power was {}, and is {}",
                asked.before["power_state"], shown["power_state"]
            ));
        }
        // What ran goes on in the same QEMU, unless the operation had come so far as to end that.
        let ends = |step: &&Value| {
            let name = step["name"].as_str().unwrap_or_default();
            ENDS_QEMU.contains(&name) && step["state"] != "pending"
        };
        let ended_it = over["steps"].as_array().into_iter().flatten().any(|step| ends(&step));
        let machine = self.node.qemu(&asked.subject);
        if ended != Ended::Finished
            && !new
            && !leave.off
            && !ended_it
            && asked.machine.is_some()
            && machine != asked.machine
        {
            wrongs.push(format!("its QEMU was {:?}, and is {machine:?}", asked.machine));
        }
        if state == "error" && shown["fault"]["data"]["next"].is_null() && !new {
            wrongs.push(format!("its fault does not say what to do: {}", shown["fault"]));
        }
        // The user's data: there, unless it was asked that they go.
        let image = shown["image"].as_str().unwrap_or_default();
        let wanted = match (ended, scenario.fate) {
            (Ended::Finished, Fate::Gone) => None,
            (Ended::Finished, Fate::Replaced) => Some(Self::images_byte(image)),
            _ if new => None,
            _ => Some(USERS),
        };
        if scenario.guest.is_some() || (ended == Ended::Told && scenario.fate != Fate::Kept) {
            return Ok(wrongs);
        }
        let found = match shown["shelved_image"].as_str() {
            Some(image) if state == "shelved_offloaded" => self.image_byte(image).await?,
            _ => self.users_byte(&asked.subject).await?,
        };
        if found != wanted {
            wrongs.push(format!("the disk holds {found:x?} where {wanted:x?} should be"));
        }
        if scenario.kind == Kind::SwapVolume {
            wrongs.extend(self.swap_fits(&shown, ended).await?);
        }
        if state == "resized" {
            let aside = byte(&self.instance_file(&asked.subject, "disk.aside.qcow2")).await?;
            if aside != Some(USERS) {
                wrongs.push(format!("the disk set aside holds {aside:x?}"));
            }
        }
        for image in ["shot", shown["shelved_image"].as_str().unwrap_or_default()] {
            let found = self.image_byte(image).await?;
            if found.is_some_and(|found| found != USERS) {
                wrongs.push(format!("image {image} holds {found:x?}"));
            }
        }
        let shot = self.image_byte("shot").await?.is_some();
        let snapshot = scenario.asked.0 == "instance.snapshot" && ended != Ended::Told;
        if snapshot && shot != (ended == Ended::Finished) {
            wrongs.push(format!("there is an image of it: {shot}, and it ended {ended:?}"));
        }
        Ok(wrongs)
    }

    /// What an image of an instance holds where the user wrote; none if there is no such image.
    async fn image_byte(&mut self, name: &str) -> Result<Option<u8>, Wrong> {
        let images = self.call("image.list", Value::Null).await?;
        let image = images.as_array().into_iter().flatten().find(|image| image["name"] == name);
        let Some(sha256) = image.and_then(|image| image["sha256"].as_str()) else {
            return Ok(None);
        };
        byte(&self.node.agent.state_dir().join("images").join(format!("{sha256}.qcow2"))).await
    }

    async fn image_fits(
        &mut self,
        scenario: &Scenario,
        asked: &Asked,
        ended: Ended,
    ) -> Result<Vec<Wrong>, Wrong> {
        let images = self.call("image.list", Value::Null).await?;
        let there = images.as_array().into_iter().flatten().any(|i| i["name"] == asked.subject);
        if scenario.kind == Kind::ImageExport {
            return self.export_fits(there, ended);
        }
        let import = scenario.asked.0 == "image.import";
        if there == (import == (ended == Ended::Finished)) || ended == Ended::Told {
            return Ok(Vec::new());
        }
        Ok(vec![format!("the image is there: {there}, and it ended {ended:?}")])
    }

    /// The image stays whatever happens; its file is there whole, or nothing is.
    fn export_fits(&self, there: bool, ended: Ended) -> Result<Vec<Wrong>, Wrong> {
        let read = |error: std::io::Error| error.to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.exports()).map_err(read)? {
            let entry = entry.map_err(read)?;
            found.push((entry.file_name(), std::fs::read(entry.path()).map_err(read)?));
        }
        let whole = std::fs::read(self.exported()).map_err(read)?;
        let fits = match ended {
            Ended::Finished => found == [("image".into(), whole)],
            Ended::Undone | Ended::Cancelled | Ended::Told => found.is_empty(),
        };
        if fits && there {
            return Ok(Vec::new());
        }
        let names: Vec<_> = found.iter().map(|(name, bytes)| (name, bytes.len())).collect();
        Ok(vec![format!("the image is there: {there}, exported {names:?}, it ended {ended:?}")])
    }
}

/// The names of an operation's steps.
pub(super) fn names_of(operation: &Value) -> Vec<String> {
    let steps = operation["steps"].as_array().into_iter().flatten();
    steps.filter_map(|step| step["name"].as_str().map(str::to_owned)).collect()
}
