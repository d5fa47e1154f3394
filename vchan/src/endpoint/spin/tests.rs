//! The account of a direction against peers that the tests make up, and the course of a spin on a
//! clock of theirs.

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::host::{EventChannel, Port};
use crate::{DomId, HostError};

const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// How a wait ends.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// It has a CPU of its own and answers after this time; a sleeper wakes up later.
    Quick(Duration),
    /// It has our CPU: it answers when we sleep.
    Shared,
    /// It answers some day.
    Idle,
}

/// A wake-up.
const WAKE_UP: Duration = micros(50);

/// A sleep, whose time is told if it matters.
fn slept(patience: &mut Patience, time: Duration) {
    let time = patience.times_the_sleep().then_some(time);
    patience.slept(time);
}

/// One wait; gives the time that was spun in vain.
fn wait(patience: &mut Patience, peer: Peer) -> Duration {
    let budget = patience.budget().unwrap();
    match peer {
        Peer::Quick(answer) if answer < budget => {
            patience.found(answer);
            return Duration::ZERO;
        }
        Peer::Quick(answer) => {
            patience.missed();
            slept(
                patience,
                answer.saturating_sub(budget).max(micros(1)) + WAKE_UP,
            );
        }
        Peer::Shared => {
            patience.missed();
            slept(patience, micros(8));
        }
        Peer::Idle => {
            patience.missed();
            slept(patience, Duration::from_secs(1));
        }
    }
    budget
}

fn peers() -> impl Strategy<Value = Peer> {
    prop_oneof![
        (0u64..200).prop_map(|answer| Peer::Quick(micros(answer))),
        Just(Peer::Shared),
        Just(Peer::Idle),
    ]
}

/// Some waits for one peer, then some for another, and so on.
fn pasts() -> impl Strategy<Value = Vec<(Peer, u32)>> {
    prop::collection::vec((peers(), 1..3000u32), 0..6)
}

fn experienced(side: Side, past: &[(Peer, u32)]) -> Patience {
    let mut patience = Patience::new(Spin::Adaptive, side, 4096);
    for &(peer, times) in past {
        for _ in 0..times {
            wait(&mut patience, peer);
        }
    }
    patience
}

#[test]
fn never_and_always_learn_nothing() {
    for (spin, budget) in [(Spin::Never, Some(Duration::ZERO)), (Spin::Always, None)] {
        let mut patience = Patience::new(spin, Side::Client, 4096);
        for _ in 0..100 {
            assert_eq!(patience.budget(), budget);
            patience.found(micros(1));
            patience.missed();
            slept(&mut patience, micros(5));
        }
    }
}

#[test]
fn being_told_how_to_spin_forgets_nothing() {
    let mut patience = Patience::new(Spin::Adaptive, Side::Server, 4096);
    for _ in 0..8 * RAREST_TRIAL {
        wait(&mut patience, Peer::Shared);
    }
    let spun: Duration = (0..RAREST_TRIAL)
        .map(|_| {
            patience.set_spin(Spin::Never);
            patience.set_spin(Spin::Adaptive);
            wait(&mut patience, Peer::Shared)
        })
        .sum();
    assert!(spun <= TRIAL, "{spun:?}");
}

#[test]
fn with_an_idle_peer_it_spins_for_a_tenth_of_a_millisecond_in_all() {
    let mut patience = Patience::new(Spin::Adaptive, Side::Server, 4096);
    let spun: Duration = (0..100_000).map(|_| wait(&mut patience, Peer::Idle)).sum();
    assert_eq!(spun, MOST_CREDIT);
}

#[test]
fn on_a_shared_cpu_a_trial_comes_after_each_thousand_waits() {
    let mut patience = Patience::new(Spin::Adaptive, Side::Server, 4096);
    let waits = 100 * RAREST_TRIAL;
    let spun: Duration = (0..waits).map(|_| wait(&mut patience, Peer::Shared)).sum();
    // Ten until they are as rare as that.
    assert!(spun <= 111 * TRIAL, "{spun:?}");
    assert!(spun >= 100 * TRIAL, "it would never notice another CPU");
}

#[test]
fn a_peer_that_answers_just_sooner_than_a_trial_ends_is_not_spun_for() {
    let mut patience = Patience::new(Spin::Adaptive, Side::Server, 4096);
    let peer = Peer::Quick(micros(90));
    let spins = |patience: &mut Patience| {
        let budget = patience.budget().unwrap();
        wait(patience, peer);
        budget > Duration::ZERO
    };
    let spun = (0..10_000).filter(|_| spins(&mut patience)).count();
    assert!(spun < 2_000, "{spun} of 10,000 waits");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_any_past_it_falls_to_zero(past in pasts()) {
        for peer in [Peer::Shared, Peer::Idle] {
            let mut patience = experienced(Side::Client, &past);
            let spun: Duration = (0..2048).map(|_| wait(&mut patience, peer)).sum();
            prop_assert!(spun <= MOST_CREDIT + 12 * TRIAL, "{spun:?} {patience:?}");
        }
    }

    #[test]
    fn after_any_past_it_recovers(
        past in pasts(),
        answer in 0u64..20,
    ) {
        let mut patience = experienced(Side::Client, &past);
        let peer = Peer::Quick(micros(answer));
        for _ in 0..RAREST_TRIAL + 8 {
            wait(&mut patience, peer);
        }
        for _ in 0..100 {
            prop_assert_eq!(wait(&mut patience, peer), Duration::ZERO);
        }
    }

    #[test]
    fn it_never_spins_more_in_vain_than_it_has_earned(
        course in prop::collection::vec(peers(), 0..300),
    ) {
        let mut patience = Patience::new(Spin::Adaptive, Side::Server, 4096);
        let (mut vain, mut allowed) = (Duration::ZERO, TRIAL);
        for peer in course {
            let before = patience.credit;
            let spun = wait(&mut patience, peer);
            vain += spun;
            // What was found earns; a sleep may call for a trial.
            allowed += patience.credit.saturating_sub(before.saturating_sub(spun));
            prop_assert!(vain <= allowed);
            prop_assert!(patience.budget().unwrap() <= TRIAL);
            prop_assert!(patience.credit <= MOST_CREDIT);
            prop_assert!((1..=RAREST_TRIAL).contains(&patience.left));
        }
    }

    /// Two that answer each other, each asleep when the other tries: both must come to spin.
    #[test]
    fn two_that_wake_each_other_come_to_spin_both(
        pasts in (pasts(), pasts()),
        wake_up in 5u64..90,
    ) {
        let mut ends = [
            experienced(Side::Server, &pasts.0),
            experienced(Side::Client, &pasts.1),
        ];
        let (wake_up, work) = (micros(wake_up), micros(1));
        // When each began to wait.
        let mut since = [Duration::ZERO; 2];
        let mut now = micros(10);
        let mut spun = 0;
        for exchange in 0..20_000 {
            if spun == 1000 {
                break;
            }
            let at = exchange % 2;
            let patience = &mut ends[at];
            let waited = now - since[at];
            let budget = patience.budget().unwrap();
            if waited < budget {
                patience.found(waited);
                spun += 1;
            } else {
                patience.missed();
                now += wake_up;
                slept(patience, now - since[at] - budget);
                spun = 0;
            }
            now += work;
            since[at] = now;
        }
        prop_assert!(spun == 1000, "{spun} {ends:?}");
    }
}

/// A clock that goes on by `step` nanoseconds with each look.
struct Clock {
    now: AtomicU64,
    step: u64,
}

fn clock(step: u64) -> Clock {
    Clock {
        now: AtomicU64::new(0),
        step,
    }
}

impl EventChannels for Clock {
    fn bind_unbound(&self, _: DomId) -> Result<Box<dyn EventChannel>, HostError> {
        unreachable!("a clock has no ports")
    }

    fn bind_interdomain(&self, _: DomId, _: Port) -> Result<Box<dyn EventChannel>, HostError> {
        unreachable!("a clock has no ports")
    }

    fn pause(&self, _: Duration) {
        unreachable!("a spin does not sleep")
    }

    fn now(&self) -> Time {
        Time(Duration::from_nanos(
            self.now.fetch_add(self.step, Ordering::Relaxed),
        ))
    }
}

fn looks(course: &mut Course<'_>) -> u32 {
    let mut looks = 0;
    while course.go_on() {
        looks += 1;
        assert!(looks < 1_000_000, "it does not end");
    }
    looks
}

#[test]
fn a_spin_ends_when_its_time_is_up() {
    let clock = clock(1_000);
    let mut course = Course::new(&clock, Some(micros(25)), None);
    assert!(looks(&mut course) > 25);
    assert!(course.taken() >= micros(25) && course.taken() < micros(30));
}

#[test]
fn a_spin_ends_though_the_clock_stands_still() {
    let clock = clock(0);
    let mut course = Course::new(&clock, Some(micros(25)), None);
    let looks = looks(&mut course);
    assert!(course.pauses >= MOST_PAUSES && course.pauses < MOST_PAUSES + MOST_BETWEEN_LOOKS);
    assert!(looks < MOST_PAUSES / 8, "{looks} looks do not get rarer");
}

#[test]
fn a_spin_without_an_end_ends_at_its_deadline() {
    let clock = clock(1_000);
    let deadline = Time(Duration::from_millis(20));
    let mut course = Course::new(&clock, None, Some(deadline));
    looks(&mut course);
    assert!(course.pauses > MOST_PAUSES);
    assert!(course.taken() >= Duration::from_millis(20));
}

#[test]
fn without_a_budget_there_is_no_spin_and_no_look_at_the_clock() {
    let clock = clock(1);
    assert!(!Course::new(&clock, Some(Duration::ZERO), None).go_on());
    assert_eq!(clock.now(), Time(Duration::ZERO));
}
