//! Transactions: several requests that happen together or not at all.

use core::fmt;
use core::time::Duration;
use std::format;
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

use super::Client;
use super::codec::{self, Kind, Malformed};
use super::connection::Connection;
use super::exchange::parse_transaction_id;
use super::requests::Requests;
use crate::host::Permissions;
use crate::{StoreError, StoreErrorKind, StorePath};

/// How often a transaction is tried when others get in its way.
const MOST_TRIES: u32 = 20;

/// A transaction that has begun. Dropping it aborts it.
///
/// A domain has few of them at a time (10 by default), so keep them short. It ends with its
/// connection: what was done in it has not happened then.
pub struct Transaction {
    /// The one in which `id` means something.
    connection: Arc<Connection>,
    limit: Duration,
    id: u32,
    is_open: bool,
}

impl Client {
    /// Begins a transaction. [`transaction`](Client::transaction) is more convenient.
    ///
    /// # Errors
    /// [`StoreErrorKind::Quota`] when the domain has too many of them, and the failures of the
    /// connection.
    pub fn begin(&self) -> Result<Transaction, StoreError> {
        let doing = "begin a XenStore transaction";
        let requests = self.requests();
        let connection = requests.connection(doing)?;
        // An empty payload is refused: there must be one empty string.
        let reply = requests.ask(Kind::TRANSACTION_START, codec::join_strings([""]), doing)?;
        let expected = "the number of a transaction";
        let id = parse_transaction_id(&reply)
            .ok_or_else(|| requests.malformed(Malformed { expected }, doing.to_string()))?;
        Ok(Transaction {
            connection,
            limit: requests.limit,
            id,
            is_open: true,
        })
    }

    /// Does what `body` does as one: all of it, or nothing when it fails. When other changes get in
    /// the way, it is done again from the start, 20 times at most.
    ///
    /// # Errors
    /// What `body` says; [`StoreErrorKind::Again`] when the tries are used up; and what beginning
    /// and committing may say.
    pub fn transaction<T>(
        &self,
        mut body: impl FnMut(&Transaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut attempt = 1;
        loop {
            match self.attempt(&mut body) {
                Err(error) if error.kind == StoreErrorKind::Again => {
                    if attempt == MOST_TRIES {
                        return Err(error.detail(format!("{attempt} times in a row")));
                    }
                    // Let the others finish; the longer, the more often it went wrong.
                    std::thread::sleep(Duration::from_millis(u64::from(attempt)));
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn attempt<T>(
        &self,
        body: &mut impl FnMut(&Transaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = self.begin()?;
        let value = body(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

impl Transaction {
    /// What a node holds.
    ///
    /// # Errors
    /// As [`Store::read`](crate::host::Store::read).
    pub fn read(&self, path: &StorePath) -> Result<Vec<u8>, StoreError> {
        self.requests().read(path)
    }

    /// Writes a node, making it and its parents where they are missing.
    ///
    /// # Errors
    /// As [`Store::write`](crate::host::Store::write).
    pub fn write(&self, path: &StorePath, value: &[u8]) -> Result<(), StoreError> {
        self.requests().write(path, value)
    }

    /// Makes an empty node, and its parents where they are missing.
    ///
    /// # Errors
    /// As [`Client::make_directory`].
    pub fn make_directory(&self, path: &StorePath) -> Result<(), StoreError> {
        self.requests().make_directory(path)
    }

    /// Removes a node and all below it. A node that is not there is no error.
    ///
    /// # Errors
    /// As [`Store::remove`](crate::host::Store::remove).
    pub fn remove(&self, path: &StorePath) -> Result<(), StoreError> {
        self.requests().remove(path)
    }

    /// The names of a node's children.
    ///
    /// # Errors
    /// As [`Store::directory`](crate::host::Store::directory).
    pub fn directory(&self, path: &StorePath) -> Result<Vec<String>, StoreError> {
        self.requests().directory(path)
    }

    /// A node's permissions.
    ///
    /// # Errors
    /// As [`Store::permissions`](crate::host::Store::permissions).
    pub fn permissions(&self, path: &StorePath) -> Result<Permissions, StoreError> {
        self.requests().permissions(path)
    }

    /// Sets a node's permissions.
    ///
    /// # Errors
    /// As [`Store::set_permissions`](crate::host::Store::set_permissions).
    pub fn set_permissions(
        &self,
        path: &StorePath,
        permissions: &Permissions,
    ) -> Result<(), StoreError> {
        self.requests().set_permissions(path, permissions)
    }

    /// Makes everything that was done in it happen.
    ///
    /// # Errors
    /// [`StoreErrorKind::Again`] when another change got in the way: nothing has happened then.
    /// [`StoreErrorKind::TimedOut`] and [`Unreachable`](StoreErrorKind::Unreachable) leave open
    /// whether it has.
    pub fn commit(mut self) -> Result<(), StoreError> {
        self.is_open = false;
        let doing = "commit a XenStore transaction";
        let payload = codec::join_strings(["T"]);
        self.requests().ask(Kind::TRANSACTION_END, payload, doing)?;
        Ok(())
    }

    /// Makes nothing of it happen; as dropping it.
    pub fn abort(self) {}

    fn requests(&self) -> Requests<Connection> {
        Requests {
            connection: Ok(Arc::clone(&self.connection)),
            transaction_id: self.id,
            limit: self.limit,
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.is_open {
            self.connection.abort(self.id);
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Transaction").field(&self.id).finish()
    }
}
