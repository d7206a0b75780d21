//! Brings the bytes of one file onto the disk, whole and checked, over as many connections as it takes.

use std::io::{ErrorKind, Write};
use std::path::Path;

use fs_err as fs;

use super::digest;
use super::failure::Failure;
use super::progress::{Meter, ProgressHandler};
use super::requests::{Promise, Requests};
use crate::error::HubFailure;

/// One file to be fetched.
pub(super) struct Download<'a> {
    pub(super) requests: &'a Requests,
    /// `organisation/name`, for messages.
    pub(super) repository: &'a str,
    pub(super) file: &'a str,
    pub(super) promise: &'a Promise,
    /// Where the bytes lie until they are whole.
    pub(super) partial: &'a Path,
    pub(super) progress: Option<&'a ProgressHandler>,
}

impl Download<'_> {
    /// Fetches the file into `partial`, going on with what lies there.
    ///
    /// # Errors
    /// The last failure after the tries are used up, with the bytes kept for the next call; bytes that are not those
    /// promised, which are removed.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut found = self.length()?;
        self.require_space(found)?;
        let size = self.promise.size;
        let mut meter = Meter::start(self.progress, self.repository, self.file, found, size);
        let mut tries = self.requests.patience.tries();
        loop {
            let before = self.length()?;
            match self.attempt(before, &mut meter).and_then(|()| self.check()) {
                Ok(()) => return Ok(()),
                // what an earlier process left may be to blame
                Err(failure) if failure.kind == HubFailure::Damaged && found > 0 => {
                    tracing::warn!("{}: {}; beginning anew", self.file, failure.detail);
                    found = 0;
                    self.remove()?;
                }
                Err(failure) if failure.kind == HubFailure::Damaged => {
                    self.remove()?;
                    return Err(failure);
                }
                Err(failure) => {
                    let gained = self.length()?.saturating_sub(before);
                    tries.pause_after(self.file, failure, gained)?;
                }
            }
        }
    }

    /// One connection's worth of bytes.
    fn attempt(&self, have: u64, meter: &mut Meter<'_>) -> Result<(), Failure> {
        if have > 0 && self.promise.size == Some(have) {
            return Ok(());
        }
        if self.promise.size.is_some_and(|size| have > size) {
            return Err(self.damaged(&format!("{have} bytes are here already")));
        }
        let mut body = self.requests.body(&self.promise.commit, self.file, have)?;
        if body.from != 0 && body.from != have {
            return Err(
                self.damaged(&format!("bytes from {have} on were asked for, from {} came", body.from))
            );
        }
        let announced = body.length.map(|length| body.from + length);
        if let (Some(size), Some(announced)) = (self.promise.size, announced)
            && size != announced
        {
            return Err(self.damaged(&format!("now it announces {announced}")));
        }
        let size = self.promise.size.or(announced);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .append(body.from > 0)
            .truncate(body.from == 0)
            .open(self.partial)
            .map_err(|error| Failure::of_disk(&error))?;
        let mut done = body.from;
        while let Some(bytes) = self.requests.chunk(&mut body)? {
            let bytes = bytes.as_ref();
            done += bytes.len() as u64;
            if size.is_some_and(|size| done > size) {
                return Err(self.damaged("more came"));
            }
            file.write_all(bytes).map_err(|error| Failure::of_disk(&error))?;
            meter.at(done);
        }
        match size {
            Some(size) if done < size && body.says_its_end => Err(self.damaged(&format!("{done} came"))),
            Some(size) if done < size => {
                let detail = format!("the connection ended after {done} of {size} bytes");
                Err(Failure::passing(HubFailure::Network, detail))
            }
            _ => Ok(()),
        }
    }

    fn damaged(&self, what: &str) -> Failure {
        let promised = match self.promise.size {
            Some(size) => format!("the hub promised {size} bytes"),
            None => "the hub named no length".to_owned(),
        };
        Failure::new(HubFailure::Damaged, format!("{promised}; {what}"))
    }

    fn check(&self) -> Result<(), Failure> {
        let differs =
            digest::difference(self.partial, &self.promise.etag).map_err(|e| Failure::of_disk(&e))?;
        match differs {
            None => Ok(()),
            Some(found) => {
                let detail = format!("its digest is {found}, the hub promised {}", self.promise.etag);
                Err(Failure::new(HubFailure::Damaged, detail))
            }
        }
    }

    /// Bytes that are on disk already.
    fn length(&self) -> Result<u64, Failure> {
        match fs::metadata(self.partial) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Failure::of_disk(&error)),
        }
    }

    fn remove(&self) -> Result<(), Failure> {
        match fs::remove_file(self.partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::of_disk(&error)),
            _ => Ok(()),
        }
    }

    /// Hours of fetching that end at a full disk help nobody.
    fn require_space(&self, have: u64) -> Result<(), Failure> {
        let (Some(size), Some(folder)) = (self.promise.size, self.partial.parent()) else { return Ok(()) };
        let Ok(free) = fs4::available_space(folder) else { return Ok(()) };
        let needed = size.saturating_sub(have);
        if needed <= free {
            return Ok(());
        }
        let detail = format!("{needed} bytes are to be fetched, {} has {free} free", folder.display());
        Err(Failure::new(HubFailure::NoSpace, detail))
    }
}
