//! Whether a guest can be talked to, and over what: decided from what was observed, nothing else.
//!
//! ```text
//!            Running                Answered
//!   Off ----------------> Waiting ------------> Ready <------------+
//!    ^                       |                    |                | Answered
//!    | Stopped               | Garbage            | Missed, Closed |
//!    +---- any               v                    v                |
//!                         Garbled --- Answered   Silent -----------+
//! ```
//!
//! Each port has a [`Channel`] of its own and the state is the best of both: a guest that answers on
//! one of them is ready, whatever the other does. Ostler's own port is preferred when both answer.

use ostler_protocol::rpc::guest::{GuestState, GuestSummary, Transport};
use ostler_protocol::rpc::values::Timestamp;

/// What one port is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Channel {
    /// Nothing came through it since the instance started.
    #[default]
    Unheard,
    /// The agent answers.
    Answering,
    /// It answered once, and does not now.
    Silent,
    /// What comes is not the protocol.
    Garbled,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Observation {
    /// The instance runs.
    Running,
    /// It is off.
    Stopped,
    /// It started again from its firmware, the same QEMU.
    Restarted,
    /// The agent said something sound, maybe its version.
    Answered(Transport, Option<String>),
    /// The agent did not say something it should have.
    Missed(Transport),
    /// Too much of what came was not the protocol.
    Garbage(Transport),
    /// The port was closed from the other side.
    Closed(Transport),
    /// The hypervisor says whether the standard port is open in the guest.
    Word(bool),
}

/// What is known of a guest's channels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Standing {
    running: bool,
    ostler: Channel,
    standard: Channel,
    word: Option<bool>,
    /// How often the hypervisor said that the standard port opened.
    openings: u64,
    agent: Option<String>,
    heard: Option<Timestamp>,
}

impl Standing {
    /// Takes an observation in. Observations of a channel mean nothing while the instance is off.
    pub(super) fn observe(&mut self, observation: Observation, now: Timestamp) {
        match observation {
            Observation::Running => {
                if !self.running {
                    self.begin();
                    self.running = true;
                }
            }
            Observation::Stopped => {
                self.begin();
                self.word = None;
                self.running = false;
            }
            Observation::Restarted => self.begin(),
            Observation::Word(open) => {
                self.word = Some(open);
                if open {
                    self.openings += 1;
                } else {
                    self.standard = self.standard.closed();
                }
            }
            Observation::Answered(over, agent) if self.running => {
                self.heard = Some(now);
                *self.channel_mut(over) = Channel::Answering;
                if agent.is_some() {
                    self.agent = agent;
                }
            }
            Observation::Missed(over) | Observation::Closed(over) if self.running => {
                let channel = self.channel_mut(over);
                *channel = channel.closed();
                self.doubt_standard(over);
            }
            Observation::Garbage(over) if self.running => {
                *self.channel_mut(over) = Channel::Garbled;
                self.doubt_standard(over);
            }
            Observation::Answered(..)
            | Observation::Missed(_)
            | Observation::Closed(_)
            | Observation::Garbage(_) => {}
        }
    }

    /// What the standard port was good for while Ostler's was used says nothing of now: it has to
    /// answer afresh.
    fn doubt_standard(&mut self, lost: Transport) {
        if lost == Transport::Ostler && self.standard == Channel::Answering {
            self.standard = Channel::Unheard;
        }
    }

    fn begin(&mut self) {
        self.ostler = Channel::Unheard;
        self.standard = Channel::Unheard;
    }

    /// The state an operator sees.
    pub(super) fn state(&self) -> GuestState {
        let either = |channel| self.ostler == channel || self.standard == channel;
        if !self.running {
            GuestState::Off
        } else if either(Channel::Answering) {
            GuestState::Ready
        } else if either(Channel::Garbled) {
            GuestState::Garbled
        } else if either(Channel::Silent) {
            GuestState::Silent
        } else {
            GuestState::Waiting
        }
    }

    /// The port to ask through.
    pub(super) fn transport(&self) -> Option<Transport> {
        [Transport::Ostler, Transport::Libvirt]
            .into_iter()
            .find(|over| self.running && self.channel(*over) == Channel::Answering)
    }

    /// Whether an answer is to be had.
    pub(super) fn is_ready(&self) -> bool {
        self.transport().is_some()
    }

    /// Whether the instance is off.
    pub(super) fn is_off(&self) -> bool {
        !self.running
    }

    /// Whether the standard port should be tried: nothing else answers, and the hypervisor does not
    /// say that it is closed.
    pub(super) fn wants_probe(&self) -> bool {
        self.running && !self.is_ready() && self.word != Some(false)
    }

    /// How often the standard port opened.
    pub(super) fn openings(&self) -> u64 {
        self.openings
    }

    /// What the channel is good for.
    pub(super) fn channel(&self, over: Transport) -> Channel {
        match over {
            Transport::Ostler => self.ostler,
            Transport::Libvirt => self.standard,
        }
    }

    fn channel_mut(&mut self, over: Transport) -> &mut Channel {
        match over {
            Transport::Ostler => &mut self.ostler,
            Transport::Libvirt => &mut self.standard,
        }
    }

    /// What is told without asking the guest.
    pub(super) fn summary(&self) -> GuestSummary {
        GuestSummary {
            state: self.state(),
            transport: self.transport(),
            agent: self.agent.clone(),
            heard: self.heard,
        }
    }

    /// Whether a listener for changes would want to know; that it was merely heard again is none.
    pub(super) fn differs(&self, before: &GuestSummary) -> bool {
        self.state() != before.state
            || self.transport() != before.transport
            || self.agent != before.agent
    }
}

impl Standing {
    /// Whether somebody who waits on the standing has something to look at.
    pub(super) fn counts_beside(&self, before: &Self) -> bool {
        Self { heard: before.heard, ..self.clone() } != *before
    }
}

impl Channel {
    fn closed(self) -> Self {
        match self {
            Self::Unheard => Self::Unheard,
            Self::Answering | Self::Silent => Self::Silent,
            Self::Garbled => Self::Garbled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Observation::{Answered, Closed, Garbage, Missed, Restarted, Running, Stopped, Word};
    use Transport::{Libvirt, Ostler};

    fn after(observations: impl IntoIterator<Item = Observation>) -> Standing {
        let mut standing = Standing::default();
        for observation in observations {
            standing.observe(observation, Timestamp(1));
        }
        standing
    }

    #[test]
    fn the_states_follow_the_diagram() {
        let table = [
            (vec![], GuestState::Off),
            (vec![Running], GuestState::Waiting),
            (vec![Running, Missed(Ostler)], GuestState::Waiting),
            (vec![Running, Answered(Ostler, None)], GuestState::Ready),
            (vec![Running, Answered(Ostler, None), Missed(Ostler)], GuestState::Silent),
            (vec![Running, Answered(Ostler, None), Closed(Ostler)], GuestState::Silent),
            (vec![Running, Garbage(Ostler)], GuestState::Garbled),
            (vec![Running, Garbage(Ostler), Closed(Ostler)], GuestState::Garbled),
            (vec![Running, Garbage(Ostler), Answered(Ostler, None)], GuestState::Ready),
            (vec![Running, Answered(Ostler, None), Stopped], GuestState::Off),
            (vec![Running, Answered(Ostler, None), Restarted], GuestState::Waiting),
            (vec![Running, Answered(Ostler, None), Stopped, Running], GuestState::Waiting),
        ];
        for (observations, state) in table {
            assert_eq!(after(observations.clone()).state(), state, "{observations:?}");
        }
    }

    #[test]
    fn an_old_answer_on_the_standard_port_does_not_cover_a_silent_guest() {
        let both = [Running, Answered(Libvirt, None), Answered(Ostler, None)];
        for loss in [Missed(Ostler), Closed(Ostler)] {
            let standing = after(both.clone().into_iter().chain([loss]));
            assert_eq!(standing.state(), GuestState::Silent);
            assert!(standing.wants_probe());
        }
    }

    #[test]
    fn an_answer_after_the_end_means_nothing() {
        let standing = after([Running, Stopped, Answered(Ostler, Some("1".into()))]);
        assert_eq!(standing.summary(), after([]).summary());
    }

    #[test]
    fn ostlers_own_port_is_preferred_and_the_other_is_enough() {
        let both = [Running, Answered(Libvirt, None), Answered(Ostler, None)];
        assert_eq!(after(both.clone()).transport(), Some(Ostler));
        let one = after(both.into_iter().chain([Garbage(Ostler), Answered(Libvirt, None)]));
        assert_eq!((one.transport(), one.state()), (Some(Libvirt), GuestState::Ready));
    }

    #[test]
    fn running_twice_keeps_what_is_known() {
        let standing = after([Running, Answered(Ostler, Some("1".into())), Running]);
        assert_eq!(standing.state(), GuestState::Ready);
    }

    #[test]
    fn the_standard_port_is_tried_only_while_nothing_answers_and_it_may_be_open() {
        for (observations, wanted) in [
            (vec![], false),
            (vec![Running], true),
            (vec![Running, Word(false)], false),
            (vec![Running, Word(false), Word(true)], true),
            (vec![Running, Answered(Ostler, None)], false),
            (vec![Running, Answered(Ostler, None), Missed(Ostler)], true),
            (vec![Running, Answered(Libvirt, None)], false),
            (vec![Running, Word(false), Stopped, Running], true),
        ] {
            assert_eq!(after(observations.clone()).wants_probe(), wanted, "{observations:?}");
        }
    }

    #[test]
    fn being_heard_again_is_no_change() {
        let mut standing = after([Running, Answered(Ostler, Some("1".into()))]);
        let before = standing.summary();
        standing.observe(Answered(Ostler, None), Timestamp(2));
        assert!(!standing.differs(&before));
        assert_eq!(standing.summary().heard, Some(Timestamp(2)));
        standing.observe(Answered(Ostler, Some("2".into())), Timestamp(3));
        assert!(standing.differs(&before));
    }
}
