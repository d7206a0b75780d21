//! The functions of `c10d.cpp`.

use std::ffi::{c_char, c_int, c_void};

use crate::ffi::RawTensor;

/// A store, a group or a work behind a pointer that is ours to close.
pub(super) type Handle = *mut c_void;
type Fault = *mut *mut c_char;

unsafe extern "C" {
    pub(super) fn te_store_open(
        host: *const c_char,
        port: u16,
        serve: c_int,
        prefix: *const c_char,
        timeout_ms: i64,
        store: *mut Handle,
        bound_port: *mut u16,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_store_clone(store: Handle, copy: *mut Handle, error: Fault) -> c_int;
    pub(super) fn te_store_close(store: Handle);
    pub(super) fn te_store_set(
        store: Handle,
        key: *const c_char,
        data: *const u8,
        length: usize,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_store_get(
        store: Handle,
        key: *const c_char,
        take: extern "C" fn(*mut c_void, *const u8, usize),
        context: *mut c_void,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_store_check(store: Handle, key: *const c_char, there: *mut c_int, error: Fault)
    -> c_int;
    pub(super) fn te_store_set_first(
        store: Handle,
        key: *const c_char,
        data: *const u8,
        length: usize,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_gloo_open(
        store: Handle,
        rank: c_int,
        size: c_int,
        interface_name: *const c_char,
        host_name: *const c_char,
        timeout_ms: i64,
        group: *mut Handle,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_group_close(group: Handle);
    pub(super) fn te_group_abort(group: Handle, error: Fault) -> c_int;
    pub(super) fn te_all_reduce(
        group: Handle,
        tensor: RawTensor,
        reduce: c_int,
        work: *mut Handle,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_broadcast(
        group: Handle,
        tensor: RawTensor,
        from: c_int,
        work: *mut Handle,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_all_gather(
        group: Handle,
        all: RawTensor,
        own: RawTensor,
        work: *mut Handle,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_barrier(group: Handle, work: *mut Handle, error: Fault) -> c_int;
    pub(super) fn te_work_wait(work: Handle, error: Fault) -> c_int;
    pub(super) fn te_work_wait_until(work: Handle, timeout_ms: i64, error: Fault) -> c_int;
    pub(super) fn te_work_over_within(
        work: Handle,
        timeout_ms: i64,
        polls: c_int,
        over: *mut c_int,
        error: Fault,
    ) -> c_int;
    pub(super) fn te_work_close(work: Handle);
}
