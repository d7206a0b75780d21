//! c10d's `TCPStore`: the small table of keys through which processes find each other.

use std::ffi::{CString, c_void};
use std::time::Duration;

use super::ffi::{self, Handle};
use crate::error::{Error, Result};
use crate::ffi::call;

/// Where a store is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or number of the machine.
    pub host: String,
    /// TCP port; 0 lets the server choose.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A connection to a store, and the store itself where it was opened with `serve`.
#[derive(Debug)]
pub struct Store {
    handle: Handle,
    address: Address,
}

// SAFETY: c10d's stores take a lock for every operation.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at `address`, serving it from this process if `serve`. All keys are put under `prefix`.
    /// `timeout` holds for connecting and for every [`Store::get`].
    ///
    /// # Errors
    /// [`Error::Store`] where nothing answers in time, the name is not known or the port is taken.
    pub fn open(address: &Address, serve: bool, prefix: &str, timeout: Duration) -> Result<Self> {
        const OP: &str = "TCPStore";
        let (host, prefix) = (c_string(OP, &address.host)?, c_string(OP, prefix)?);
        let (mut handle, mut port) = (std::ptr::null_mut(), 0);
        // SAFETY: the strings and the places for the results live through the call.
        let opened = call(OP, |fault| unsafe {
            ffi::te_store_open(
                host.as_ptr(),
                address.port,
                i32::from(serve),
                prefix.as_ptr(),
                timeout.as_millis() as i64,
                &raw mut handle,
                &raw mut port,
                fault,
            )
        });
        opened.map_err(|error| store_error(address, error))?;
        Ok(Self { handle, address: Address { host: address.host.clone(), port } })
    }

    /// Another connection to the same store, for another thread: a [`Store::get`] that waits blocks only its own.
    ///
    /// # Errors
    /// [`Error::Store`] where the store does not answer.
    pub fn another(&self) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the handle is live.
        let opened =
            call("TCPStore", |fault| unsafe { ffi::te_store_clone(self.handle, &raw mut handle, fault) });
        opened.map_err(|error| store_error(&self.address, error))?;
        Ok(Self { handle, address: self.address.clone() })
    }

    /// Where it is served, with the port that was chosen.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sets a key.
    ///
    /// # Errors
    /// [`Error::Store`] where the store does not answer; so in all that follows.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let name = c_string("TCPStore.set", key)?;
        // SAFETY: key, bytes and handle are live.
        let set = call("TCPStore.set", |fault| unsafe {
            ffi::te_store_set(self.handle, name.as_ptr(), value.as_ptr(), value.len(), fault)
        });
        set.map_err(|error| store_error(&self.address, error))
    }

    /// Sets a key where it is not set yet; of several processes that do so at once, one has its way.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty value, which nobody could tell from none; [`Error::Store`].
    pub fn set_first(&self, key: &str, value: &[u8]) -> Result<()> {
        const OP: &str = "TCPStore.compareSet";
        if value.is_empty() {
            return Err(Error::Argument { op: OP, message: format!("no value for {key:?}") });
        }
        let name = c_string(OP, key)?;
        // SAFETY: key, bytes and handle are live.
        let set = call(OP, |fault| unsafe {
            ffi::te_store_set_first(self.handle, name.as_ptr(), value.as_ptr(), value.len(), fault)
        });
        set.map_err(|error| store_error(&self.address, error))
    }

    /// The value of a key, waiting for it to be set.
    ///
    /// # Errors
    /// [`Error::Store`], also where the key is not set in time.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        let name = c_string("TCPStore.get", key)?;
        let mut value: Vec<u8> = Vec::new();
        let context: *mut c_void = (&raw mut value).cast();
        // SAFETY: `take` is called with `context` and before the function returns.
        let got = call("TCPStore.get", |fault| unsafe {
            ffi::te_store_get(self.handle, name.as_ptr(), take, context, fault)
        });
        got.map_err(|error| store_error(&self.address, error))?;
        Ok(value)
    }

    /// Whether a key is set.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn has(&self, key: &str) -> Result<bool> {
        let name = c_string("TCPStore.check", key)?;
        let mut there = 0;
        // SAFETY: as in `get`.
        let checked = call("TCPStore.check", |fault| unsafe {
            ffi::te_store_check(self.handle, name.as_ptr(), &raw mut there, fault)
        });
        checked.map_err(|error| store_error(&self.address, error))?;
        Ok(there != 0)
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { ffi::te_store_close(self.handle) }
    }
}

extern "C" fn take(value: *mut c_void, data: *const u8, length: usize) {
    if length > 0 {
        // SAFETY: `value` is the vector that `get` lends, and `data` points to `length` bytes.
        unsafe { (*value.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(data, length)) }
    }
}

/// A string for C, without zero bytes in it.
pub(super) fn c_string(op: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Argument { op, message: format!("{text:?} holds a zero byte") })
}

fn store_error(address: &Address, error: Error) -> Error {
    match error {
        Error::Torch { message, .. } => {
            // the first sentence says it; what follows is c10d's own address and stack
            let message = message.lines().next().unwrap_or_default().to_owned();
            Error::Store { address: address.to_string(), message }
        }
        other => other,
    }
}
