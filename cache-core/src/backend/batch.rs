//! Results of batches.

use crate::{Error, ErrorKind, Result};

/// Returns the result of a batch of one.
///
/// # Errors
///
/// Returns the error of the batch, or one of kind `Backend` if the batch has no result.
pub fn only<T>(results: Vec<Result<T>>) -> Result<T> {
    let missing = || Err(Error::new(ErrorKind::Backend, "the store returned no result for the key"));
    results.into_iter().next().unwrap_or_else(missing)
}

/// Returns the positions of the writes that the server refused because it had no room.
///
/// The entries that these writes should have replaced must be removed. [`with_removal`] adds the
/// outcome to the error.
pub fn refused_for_room<T>(results: &[Result<T>]) -> Vec<usize> {
    let is_full = |result: &Result<T>| matches!(result, Err(error) if error.kind() == ErrorKind::Full);
    (0..results.len()).filter(|&at| is_full(&results[at])).collect()
}

/// Returns the error of a write that was refused because there was no room. The message also tells
/// whether the older entry was removed.
pub fn with_removal(error: &Error, removed: bool) -> Error {
    let outcome = if removed {
        "the older entry was removed"
    } else {
        "the older entry could not be removed and may still be there"
    };
    Error::with_source(ErrorKind::Full, format!("{error}; {outcome}"), error.clone())
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind) -> Result<u8> {
        Err(Error::new(kind, "no room"))
    }

    #[test]
    fn a_batch_of_one_has_one_result() {
        assert_eq!(only(vec![Ok(1)]).unwrap(), 1);
        assert_eq!(only(vec![failed(ErrorKind::Denied)]).unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(only::<u8>(vec![]).unwrap_err().kind(), ErrorKind::Backend);
    }

    #[test]
    fn only_writes_without_room_are_refused_for_room() {
        let results = [failed(ErrorKind::Full), Ok(1), failed(ErrorKind::Denied), failed(ErrorKind::Full)];
        assert_eq!(refused_for_room(&results), [0, 3]);
    }

    #[test]
    fn the_error_tells_whether_the_older_entry_was_removed() {
        let error = failed(ErrorKind::Full).unwrap_err();
        for (removed, message) in [
            (true, "no room; the older entry was removed"),
            (false, "no room; the older entry could not be removed and may still be there"),
        ] {
            let error = with_removal(&error, removed);
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::Full, message.to_owned()));
        }
    }
}
