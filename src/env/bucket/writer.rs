//! Writer: a long object in parts, or a short one in one request.
//!
//!   write ─> buffer ─ full ─> part 1, part 2, …   ── each waits for its answer: a slow store slows the writer
//!   finish ─┬ no part yet ──> one conditional PUT
//!           └ parts ────────> is the path free? ─> complete
//!
//! Holds: at most one part in memory; nothing is visible before `finish`, and then the whole object.
//! Does not: check and complete in one request where there are parts: no client library does. Those who write long
//! objects give them names that one writer has by its epoch.

use super::BucketStore;
use super::outcome::Outcome;
use crate::env::{Created, StoreError, StoreErrorKind, StoreWriter};
use object_store::PutPayload;
use object_store::multipart::PartId;
use std::io::{self, Write};

/// Bytes of one part; every store takes parts of this size, and 10,000 of them.
pub const PART_BYTES: usize = 8 << 20;

pub(super) struct BucketWriter {
    store: BucketStore,
    path: String,
    buffer: Vec<u8>,
    upload: Option<Upload>,
}

struct Upload {
    id: String,
    parts: Vec<PartId>,
    bytes: u64,
}

impl BucketWriter {
    pub(super) fn new(store: BucketStore, path: &str) -> BucketWriter {
        BucketWriter { store, path: path.into(), buffer: Vec::new(), upload: None }
    }

    fn send_part(&mut self) -> Result<(), StoreError> {
        let key = self.store.key("write", &self.path)?;
        let client = self.store.client();
        if self.upload.is_none() {
            let id = self.store.retried("write", &self.path, || client.create_multipart(&key))?;
            self.upload = Some(Upload { id, parts: Vec::new(), bytes: 0 });
        }
        let upload = self.upload.as_mut().expect("made just above");
        let data = std::mem::take(&mut self.buffer);
        let (number, bytes) = (upload.parts.len(), data.len() as u64);
        let payload = PutPayload::from(data);
        let part =
            self.store.retried("write", &self.path, || client.put_part(&key, &upload.id, number, payload.clone()))?;
        upload.parts.push(part);
        upload.bytes += bytes;
        Ok(())
    }

    fn complete(&mut self) -> Result<Created, StoreError> {
        let upload = self.upload.as_ref().expect("only called with parts");
        if self.store.length("write", &self.path)?.is_some() {
            return Ok(Created::AlreadyThere); // the drop gives the parts back
        }
        let key = self.store.key("write", &self.path)?;
        let client = self.store.client();
        let mut patience = self.store.patience();
        loop {
            let done = self.store.answer(|| client.complete_multipart(&key, &upload.id, upload.parts.clone()));
            let Err(error) = done else { break };
            // The answer may be lost, or the first of two tries may have done it: the length tells.
            match (self.store.length("write", &self.path)?, super::outcome::outcome(&error)) {
                (Some(bytes), _) if bytes == upload.bytes => break,
                (Some(_), _) => return Err(self.store.failed("write", &self.path, &error).outcome_unknown()),
                (None, Outcome::NotSent | Outcome::Unclear) if patience.wait(&error, "write", &self.path) => {}
                (None, _) => return Err(self.store.failed("write", &self.path, &error)),
            }
        }
        self.upload = None;
        Ok(Created::Yes)
    }
}

impl Write for BucketWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == PART_BYTES {
            self.send_part().map_err(io::Error::other)?;
        }
        let taken = bytes.len().min(PART_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StoreWriter for BucketWriter {
    fn finish(mut self: Box<Self>) -> Result<Created, StoreError> {
        if self.upload.is_some() {
            self.send_part()?;
            return self.complete();
        }
        let bytes = std::mem::take(&mut self.buffer);
        let payload = PutPayload::from(bytes);
        match self.store.put("write", &self.path, &payload) {
            // Only this writer has the name, so the same bytes there are the ones it sent.
            Err(error) if error.kind == StoreErrorKind::Unknown => match self.store.holds(&self.path, &payload) {
                Ok(true) => Ok(Created::Yes),
                _ => Err(error),
            },
            done => done,
        }
    }
}

impl Drop for BucketWriter {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let client = self.store.client();
        let Ok(key) = self.store.key("abort", &self.path) else { return };
        // One try: what stays is taken by the bucket's lifecycle rule.
        if let Err(error) = self.store.answer(|| client.abort_multipart(&key, &upload.id)) {
            tracing::debug!(path = self.path, %error, "an unfinished upload stays until the bucket's lifecycle rule takes it");
        }
    }
}
