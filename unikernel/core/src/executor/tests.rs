use std::string::{String, ToString};
use std::sync::Arc as StdArc;
use std::vec;

use vchan::task::Runtime;

use super::*;

/// A machine whose clock moves, and on whose ports events come, only while the guest sleeps.
#[derive(Clone, Default)]
struct Machine(StdArc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Duration,
    pending: Vec<Port>,
    /// Events to come: when, and where.
    to_come: Vec<(Duration, Port)>,
    sleeps: usize,
    /// How often the guest listens while it does not sleep.
    heeds: usize,
}

impl Ports for Machine {
    fn now(&self) -> Time {
        Time(self.0.lock().now)
    }

    fn is_pending(&self, port: Port) -> bool {
        self.0.lock().pending.contains(&port)
    }

    fn clear(&self, port: Port) {
        self.0.lock().pending.retain(|&pending| pending != port);
    }

    fn sleep(&self, ports: &[Port], deadline: Option<Time>) {
        let mut state = self.0.lock();
        state.sleeps += 1;
        assert!(ports.is_sorted());
        if ports.iter().any(|port| state.pending.contains(port)) {
            return;
        }
        let mut events = state.to_come.clone();
        events.retain(|(_, port)| ports.contains(port));
        let first = events.into_iter().min();
        let event = first.filter(|(at, _)| deadline.is_none_or(|Time(deadline)| *at <= deadline));
        match (event, deadline) {
            (Some((at, port)), _) => {
                state.now = state.now.max(at);
                state.pending.push(port);
                state.to_come.retain(|&other| other != (at, port));
            }
            (None, Some(Time(deadline))) => state.now = state.now.max(deadline),
            (None, None) => panic!("a sleep that nothing ends"),
        }
    }

    fn heed(&self) {
        self.0.lock().heeds += 1;
    }

    fn store(&self) -> Port {
        Port(1)
    }
}

fn executor() -> (Machine, Executor<Machine>, Runtime) {
    let machine = Machine::default();
    let executor = Executor::new(machine.clone());
    let runtime = Runtime::new(executor.clone());
    (machine, executor, runtime)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn tasks_go_on_in_the_order_of_their_times_and_the_guest_sleeps_in_between() {
    let (machine, executor, runtime) = executor();
    let log = StdArc::new(Mutex::new(String::new()));
    for delay in [3, 1, 2] {
        let (log, runtime) = (StdArc::clone(&log), runtime.clone());
        executor.spawn(async move {
            runtime.sleep(seconds(delay)).await;
            log.lock().push_str(&delay.to_string());
        });
    }
    executor.block_on(runtime.sleep(seconds(4)));
    assert_eq!(*log.lock(), "123");
    assert_eq!(machine.now(), Time(seconds(4)));
    assert_eq!(machine.0.lock().sleeps, 4, "one for each");
    assert!(executor.shared.tasks.lock().is_empty());
}

#[test]
fn a_limit_ends_what_takes_longer_and_leaves_nothing_behind() {
    let (machine, executor, runtime) = executor();
    executor.block_on(async {
        let slow = runtime.sleep(seconds(5));
        assert_eq!(runtime.timeout(seconds(1), slow).await, None);
        assert_eq!(machine.now(), Time(seconds(1)));
        assert_eq!(runtime.timeout(seconds(1), async { 7 }).await, Some(7));
        let quick = runtime.sleep(seconds(1));
        assert_eq!(runtime.timeout(seconds(2), quick).await, Some(()));
    });
    assert_eq!(machine.now(), Time(seconds(2)));
    assert!(executor.shared.waiting.lock().times.is_empty());
}

/// Waits for an event as a task that waits for XenStore does.
async fn event(executor: &Executor<Machine>, port: Port) {
    let watched = executor.watched(port, None);
    core::future::poll_fn(|cx| {
        watched
            .poll_take(cx.waker(), &mut || Ok(true))
            .map(Result::unwrap)
    })
    .await;
}

#[test]
fn an_event_wakes_who_waits_for_its_port_and_nobody_else() {
    let (machine, executor, runtime) = executor();
    machine.0.lock().to_come = vec![
        (seconds(2), Port(9)),
        (seconds(3), Port(7)),
        (seconds(1), Port(8)),
    ];
    let log = StdArc::new(Mutex::new(Vec::new()));
    for port in [7, 9] {
        let (log, executor) = (StdArc::clone(&log), executor.clone());
        executor.clone().spawn(async move {
            event(&executor, Port(port)).await;
            log.lock().push(port);
        });
    }
    executor.block_on(runtime.sleep(seconds(10)));
    assert_eq!(*log.lock(), [9, 7]);
    assert!(machine.0.lock().pending.is_empty());
    assert!(executor.shared.waiting.lock().events.is_empty());
}

#[test]
fn an_event_that_is_there_already_is_not_slept_on() {
    let (machine, executor, _runtime) = executor();
    machine.0.lock().pending.push(Port(5));
    executor.block_on(event(&executor, Port(5)));
    assert_eq!(machine.0.lock().sleeps, 0);
}

#[test]
fn a_task_that_always_has_something_to_do_lets_the_others_come_to_their_turn() {
    let (machine, executor, runtime) = executor();
    let steps = StdArc::new(AtomicU32::new(0));
    let counted = StdArc::clone(&steps);
    let busy = executor.clone();
    executor.spawn(async move {
        loop {
            core::future::poll_fn(|cx| busy.poll_turn(cx)).await;
            // Without turns it would go on for ever.
            assert!(
                counted.fetch_add(1, Ordering::Relaxed) < 1_000_000,
                "no turns"
            );
        }
    });
    machine.0.lock().pending.push(Port(5));
    executor.block_on(async {
        for _ in 0..10 {
            yield_once().await;
        }
        event(&executor, Port(5)).await;
    });
    let steps = steps.load(Ordering::Relaxed);
    assert!(
        (STEPS_PER_TURN..=12 * STEPS_PER_TURN).contains(&steps),
        "{steps}"
    );
    // It was never idle, and listened all the same.
    let machine = machine.0.lock();
    assert_eq!(machine.sleeps, 0);
    assert!(machine.heeds >= 10, "{}", machine.heeds);
    drop((machine, runtime));
    executor.cancel_all();
}

async fn yield_once() {
    let mut yielded = false;
    core::future::poll_fn(|cx| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn a_task_that_is_woken_while_it_runs_runs_again_once() {
    let (_machine, executor, _runtime) = executor();
    let polls = StdArc::new(AtomicU32::new(0));
    let counted = StdArc::clone(&polls);
    executor.spawn(core::future::poll_fn(move |cx| {
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => {
                cx.waker().wake_by_ref();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }));
    executor.block_on(async {
        for _ in 0..5 {
            yield_once().await;
        }
    });
    assert_eq!(polls.load(Ordering::Relaxed), 2);
}

struct OnDrop(StdArc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn cancelled_tasks_drop_what_they_own_also_when_they_wait_for_each_other() {
    let (_machine, executor, runtime) = executor();
    let dropped = [(); 3].map(|()| StdArc::new(AtomicBool::new(false)));
    let waker = StdArc::new(Mutex::new(None));
    let [own, waiting, woken] = dropped.clone().map(OnDrop);
    let place = StdArc::clone(&waker);
    executor.spawn(async move {
        let _own = own;
        // Its waker lies in what it owns.
        let place = place;
        core::future::poll_fn(|cx| {
            *place.lock() = Some(cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    });
    let (sleeping, listening) = (runtime.clone(), executor.clone());
    executor.spawn(async move {
        let _own = waiting;
        sleeping.sleep(seconds(100)).await;
    });
    executor.spawn(async move {
        let _own = woken;
        event(&listening, Port(6)).await;
    });
    drop(waker);
    executor.block_on(runtime.sleep(seconds(1)));
    assert!(
        dropped
            .iter()
            .all(|dropped| !dropped.load(Ordering::Relaxed))
    );
    executor.cancel_all();
    assert!(
        dropped
            .iter()
            .all(|dropped| dropped.load(Ordering::Relaxed))
    );
    let waiting = executor.shared.waiting.lock();
    assert!(waiting.events.is_empty() && waiting.times.is_empty());
}

#[test]
#[should_panic(expected = "nothing will ever happen")]
fn a_guest_in_which_nothing_can_happen_says_so() {
    let (_machine, executor, _runtime) = executor();
    executor.block_on(core::future::pending::<()>());
}
