//! The ring against a queue, two threads, and leaks; the waker against lost wake-ups.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::thread;

use proptest::prelude::*;

use super::*;

proptest! {
    /// The indices wrap around the slots many times here; an error of one loses or repeats a message.
    #[test]
    fn the_ring_does_what_a_bounded_queue_does(
        bits in 0..5_u32, pushes in prop::collection::vec(any::<bool>(), 0..400),
    ) {
        let capacity = 1_usize << bits;
        let (mut producer, mut consumer) = ring(capacity);
        let mut model = VecDeque::new();
        for (item, push) in pushes.into_iter().enumerate() {
            prop_assert_eq!(producer.has_room(), model.len() < capacity);
            prop_assert_eq!(consumer.is_empty(), model.is_empty());
            if !push {
                prop_assert_eq!(consumer.pop(), model.pop_front());
            } else if model.len() < capacity {
                model.push_back(item);
                prop_assert_eq!(producer.push(item), Ok(()));
            } else {
                prop_assert_eq!(producer.push(item), Err(item));
            }
        }
    }
}

/// Items carry memory of their own: one seen before it is whole, or seen twice, would not pass unnoticed.
#[test]
fn a_million_items_cross_between_two_threads_whole_and_in_order() {
    const COUNT: u64 = 1_000_000;
    let (mut producer, mut consumer) = ring(256);
    thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..COUNT {
                let mut item = Box::new([n, !n]);
                while let Err(refused) = producer.push(item) {
                    item = refused;
                    thread::yield_now();
                }
            }
        });
        for n in 0..COUNT {
            let item = loop {
                match consumer.pop() {
                    Some(item) => break item,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*item, [n, !n]);
        }
        assert!(consumer.is_empty());
    });
}

/// A core that stops leaves messages behind, and they hold buffers.
#[test]
fn what_is_left_in_a_ring_is_dropped_with_it_once() {
    let item = Arc::new(());
    let (mut producer, mut consumer) = ring(4);
    for _ in 0..3 {
        producer.push(Arc::clone(&item)).unwrap();
        drop(consumer.pop());
    }
    for _ in 0..4 {
        producer.push(Arc::clone(&item)).unwrap();
    }
    drop(producer.push(Arc::clone(&item)));
    drop(consumer.pop());
    assert_eq!(Arc::strong_count(&item), 4);
    drop(producer);
    assert_eq!(Arc::strong_count(&item), 4);
    drop(consumer);
    assert_eq!(Arc::strong_count(&item), 1);
}

/// Whether the waker's descriptor is readable within ten seconds, or within none.
fn readable(waker: &Waker, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: waker.fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, ours for the length of the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
    ready == 1
}

/// A system call per message to a core that is awake would cost more than the message.
#[test]
fn only_a_sleeping_core_is_woken_and_only_once() {
    let waker = Waker::new().unwrap();
    waker.wake();
    assert!(!readable(&waker, 0));
    waker.begin_sleep();
    waker.wake();
    assert!(readable(&waker, 0));
    waker.drain();
    waker.wake();
    assert!(!readable(&waker, 0), "the first had woken it");
    waker.end_sleep();
    waker.wake();
    assert!(!readable(&waker, 0));
}

/// The race the protocol is about: an item pushed between the sleeper's last look and its poll. A lost
/// wake-up shows as a poll that comes back empty.
#[test]
fn no_item_is_slept_through() {
    const COUNT: u64 = 100_000;
    let waker = Arc::new(Waker::new().unwrap());
    let (mut producer, mut consumer) = ring(8);
    let taken = Arc::new(AtomicU64::new(0));
    thread::scope(|scope| {
        let (theirs, seen) = (Arc::clone(&waker), Arc::clone(&taken));
        scope.spawn(move || {
            for n in 0..COUNT {
                // One item at a time, so that the sleeper runs dry before each.
                while seen.load(Ordering::Acquire) < n {
                    std::hint::spin_loop();
                }
                producer.push(n).unwrap();
                theirs.wake();
            }
        });
        let mut next = 0;
        while next < COUNT {
            while let Some(item) = consumer.pop() {
                assert_eq!(item, next);
                next += 1;
                taken.store(next, Ordering::Release);
            }
            waker.begin_sleep();
            if next < COUNT && consumer.is_empty() {
                let woken = readable(&waker, 10_000);
                if !woken {
                    // Or the other thread would wait for this one for ever.
                    taken.store(COUNT, Ordering::Release);
                }
                assert!(woken, "slept through item {next}");
            }
            waker.end_sleep();
        }
    });
}
