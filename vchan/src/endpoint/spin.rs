//! Looking for a while before sleeping, as far as that pays.
//!
//! A wake-up costs a hundred times what a glance at the ring costs. So a call that has to wait does
//! better to keep looking, if the peer answers soon and has a CPU of its own; if not, it does
//! nothing but harm. Nobody can ask which it is: the peer's virtual CPU may share a real one with
//! ours. [`Patience`] learns it from what became of earlier waits. It knows no clock and no ring, so
//! that it can be tried alone; [`Course`] is one spin.

use core::time::Duration;

use crate::guard::keeps;
use crate::host::{EventChannels, Time};
use crate::layout::Side;
use crate::sync::pause;

mod linger;
mod turns;

use linger::Lingering;
use turns::Turns;

/// What a call that has to wait does before it sleeps.
///
/// While a call spins, the peer is not asked for an event, and sends none. Calls that do not wait
/// and asynchronous ones never spin.
///
/// ```
/// use vchan::{Channel, ReadHalf, Spin, WriteHalf};
///
/// /// Orders come now and then, and a CPU of our own does nothing but take them. Nobody minds when
/// /// the answers go out.
/// fn split(channel: Channel) -> (ReadHalf, WriteHalf) {
///     let (mut orders, mut answers) = channel.into_split();
///     orders.set_spin(Spin::Always);
///     answers.set_spin(Spin::Never);
///     (orders, answers)
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Spin {
    /// Nothing: it sleeps at once.
    Never,
    /// It looks at the ring for at most 0.1 ms, if that has been paying: if the peer usually
    /// answers sooner than a sleeper wakes up. It hardly ever does with a peer that is idle, slow,
    /// or on the same CPU: to one there it gives way instead, where that has been paying and the host
    /// can. When the peer is busy with a stream of small messages, it lets a few microseconds' worth of
    /// them gather.
    #[default]
    Adaptive,
    /// It never sleeps, but looks at the ring until there is something to do or the time is up. It
    /// takes a whole CPU for that: for peers that are known to have one each.
    Always,
}

/// What a sleep and a wake-up cost, about. A spin that ends sooner pays.
const SLEEP_COST: Duration = Duration::from_micros(25);
/// How long a trial may take: long enough for a peer that must be woken up before it answers.
const TRIAL: Duration = Duration::from_micros(100);
/// The most that is ever spun in vain before the next sign that it might pay.
const MOST_CREDIT: Duration = TRIAL;
/// A sleep that took longer would not have been spared by spinning.
const SHORT_SLEEP: Duration = Duration::from_micros(300);
/// How many sleeps lie between two trials, at most; the last of them was a short one.
const RAREST_TRIAL: u32 = 1024;
/// The same, after a trial that ended well but not soon: the peer had to be woken up, and may be
/// trying as well. One side adds one, so that their trials do not miss each other for ever.
const SLOW_PEER_TRIAL: u32 = 16;

/// How long one direction spins, learnt from how its waits ended.
///
/// It keeps an account. A spin that finds something earns what it has saved, a spin in vain costs
/// its length, and what is spun is never more than the credit. When there is none left, the only
/// way to more is a trial, which a sleep that was short calls for: each time after twice as many
/// sleeps, until one finds something. So all that is ever spun in vain is what was earned, and the
/// trials.
#[derive(Debug)]
pub(crate) struct Patience {
    spin: Spin,
    side: Side,
    /// How much may still be spun in vain.
    credit: Duration,
    /// The credit is that of a trial.
    trial: bool,
    /// How many sleeps lie between the last trial and the next.
    interval: u32,
    /// How many of them are still to come.
    left: u32,
    lingering: Lingering,
    turns: Turns,
}

impl Patience {
    /// For a ring of this size.
    pub(crate) const fn new(spin: Spin, side: Side, ring: usize) -> Patience {
        Patience {
            spin,
            side,
            credit: TRIAL,
            trial: true,
            interval: 1,
            left: 1,
            lingering: Lingering::new(ring),
            turns: Turns::new(),
        }
    }

    /// Spins in this way from now on. What was learnt stays, as the peer does: to learn it again costs
    /// some trials.
    pub(crate) fn set_spin(&mut self, spin: Spin) {
        self.spin = spin;
    }

    /// How long to spin now; `None` is for ever.
    pub(super) fn budget(&self) -> Option<Duration> {
        match self.spin {
            Spin::Never => Some(Duration::ZERO),
            Spin::Adaptive if self.trial => Some(self.credit),
            Spin::Adaptive => Some(self.credit.min(SLEEP_COST)),
            Spin::Always => None,
        }
    }

    /// A spin has found something to do, this long `after` it began.
    pub(super) fn found(&mut self, after: Duration) {
        let credit = self.credit.saturating_add(SLEEP_COST);
        self.credit = credit.saturating_sub(after).min(MOST_CREDIT);
        if after <= SLEEP_COST {
            (self.trial, self.interval) = (false, 1);
        } else {
            let trial = match self.side {
                Side::Server => SLOW_PEER_TRIAL,
                Side::Client => SLOW_PEER_TRIAL + 1,
            };
            self.interval = self.interval.min(trial);
        }
        self.left = self.interval;
    }

    /// Lets the peer get on for a moment, if its index has moved a little since the last time and more
    /// usually follows. `look` tells that index.
    pub(super) fn linger(&mut self, look: impl Fn() -> u32) {
        if self.spin == Spin::Adaptive {
            self.lingering.visit(look);
        }
    }

    /// Whether to give way to the peer before the next sleep.
    pub(super) fn gives_way(&mut self) -> bool {
        self.spin == Spin::Adaptive && self.turns.is_due()
    }

    /// It has given way for so long, and there is `something_to_do` now or not.
    pub(super) fn gave_way(&mut self, time: Duration, something_to_do: bool) {
        self.turns.ended(time, something_to_do);
        if something_to_do {
            // That was a sleep, as far as spinning is concerned: it does not tell where the peer is.
            self.slept(Some(time));
        }
    }

    /// A spin has used up its budget.
    pub(super) fn missed(&mut self) {
        let spent = self.budget().unwrap_or_default();
        if keeps("spin-costs") {
            self.credit = self.credit.saturating_sub(spent);
        }
    }

    /// Whether it matters how long the next sleep takes: a short one calls for a trial.
    pub(super) fn times_the_sleep(&self) -> bool {
        self.spin == Spin::Adaptive && self.credit.is_zero() && self.left <= 1
    }

    /// A wait has ended well, after a sleep of this `time`, if that mattered.
    pub(super) fn slept(&mut self, time: Option<Duration>) {
        if !self.credit.is_zero() {
            return;
        }
        if self.left > 1 {
            self.left -= 1;
            return;
        }
        if time.is_some_and(|time| time <= SHORT_SLEEP) {
            (self.credit, self.trial) = (TRIAL, true);
            if keeps("trials-become-rare") {
                self.interval = self.interval.saturating_mul(2).min(RAREST_TRIAL);
            }
            self.left = self.interval;
        }
    }
}

/// Between two looks at the ring lies an eighth of the pauses before, at least one and at most so
/// many: the line that both sides write is left to the peer, and little is lost of an answer.
const MOST_BETWEEN_LOOKS: u32 = 64;
/// The clock is read after so many pauses.
const BETWEEN_CLOCKS: u32 = 32;
/// A spin ends after so many pauses, whatever the clock says: a host's may be coarse.
const MOST_PAUSES: u32 = if cfg!(vchan_loom) { 2 } else { 1 << 15 };

/// The course of one spin. It ends by the clock and by counting, whatever the peer does meanwhile.
pub(super) struct Course<'a> {
    clock: &'a dyn EventChannels,
    budget: Option<Duration>,
    deadline: Option<Time>,
    pauses: u32,
    /// How many of them since the clock was read.
    unread: u32,
    /// What the clock said first and last.
    clocked: Option<(Time, Time)>,
}

impl<'a> Course<'a> {
    pub(super) fn new(
        clock: &'a dyn EventChannels,
        budget: Option<Duration>,
        deadline: Option<Time>,
    ) -> Course<'a> {
        Course {
            clock,
            budget,
            deadline,
            pauses: 0,
            unread: 0,
            clocked: None,
        }
    }

    /// Lets a little time pass, more each time. False: there is none left.
    pub(super) fn go_on(&mut self) -> bool {
        let most = match self.budget {
            Some(Duration::ZERO) => return false,
            Some(_) => MOST_PAUSES,
            None => u32::MAX,
        };
        if self.pauses >= most && self.budget.is_some() && keeps("spin-ends") {
            return false;
        }
        let count = (self.pauses / 8).clamp(1, MOST_BETWEEN_LOOKS);
        for _ in 0..count {
            pause();
        }
        self.pauses = self.pauses.saturating_add(count);
        self.unread = self.unread.saturating_add(count);
        if self.unread < BETWEEN_CLOCKS {
            return true;
        }
        self.unread = 0;
        let now = self.clock.now();
        let (began, _) = *self.clocked.insert((self.began().unwrap_or(now), now));
        let in_time = self.deadline.is_none_or(|deadline| now < deadline);
        let in_budget = self.budget.is_none_or(|budget| now.since(began) < budget);
        (in_time || !keeps("spin-deadline")) && (in_budget || !keeps("spin-ends"))
    }

    fn began(&self) -> Option<Time> {
        self.clocked.map(|(began, _)| began)
    }

    /// How long it has taken so far, by the last reading of the clock.
    pub(super) fn taken(&self) -> Duration {
        match self.clocked {
            Some((began, last)) => last.since(began),
            None => Duration::ZERO,
        }
    }
}

#[cfg(all(test, not(vchan_loom)))]
mod tests;
