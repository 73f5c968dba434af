//! Waiting for what its last owner is about to let go of: at the start of a node, when no core runs yet.
#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

/// Looks again up to `looks` times, while the error is one that passes by itself; the last error stands.
pub fn patiently<T, E>(
    mut looks: u32,
    passes: impl Fn(&E) -> bool,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    loop {
        match look() {
            Err(error) if looks > 0 && passes(&error) => looks -= 1,
            outcome => return outcome,
        }
        #[expect(clippy::disallowed_methods, reason = "no core of this node runs yet")]
        thread::sleep(PAUSE);
    }
}

const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_again_only_as_often_as_it_may_and_for_what_passes() {
        let tried = |looks: u32, passes: bool, free_after: u32| {
            let mut count = 0;
            let look = || {
                count += 1;
                if count > free_after { Ok(count) } else { Err(count) }
            };
            (patiently(looks, |_: &u32| passes, look), count)
        };
        assert_eq!(tried(3, true, 2), (Ok(3), 3));
        assert_eq!(tried(2, true, 5), (Err(3), 3));
        assert_eq!(tried(3, false, 2), (Err(1), 1));
        assert_eq!(tried(0, true, 0), (Ok(1), 1));
    }
}
