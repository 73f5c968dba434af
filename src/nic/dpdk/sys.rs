//! The functions of `ffi/dpdk_shim.h`, as bindgen reads them there.
//!
//! Named one by one: `tests/tidy.rs` compares this list with the header.
#![allow(unsafe_code, reason = "an unsafe room: declarations of C functions")]

pub use bindings::{
    MAKO_CHECKSUM_BAD, MAKO_CHECKSUM_GOOD, MAKO_LENGTH_MASK, MAKO_OFFLOAD_RX, MAKO_OFFLOAD_TX,
};
pub use bindings::{
    mako_eal_directory, mako_eal_init, mako_error_words, mako_thread_register, mako_thread_unregister,
};
#[cfg(test)]
pub use bindings::{mako_heap_is_zero, mako_pool_available, mako_port_ask_reset, mako_xdp_leave};
pub use bindings::{mako_interface_mtu, mako_interface_queues, mako_xdp_forget};
pub use bindings::{mako_mbuf_new, mako_mbufs_free, mako_receive, mako_send};
pub use bindings::{mako_pool_free, mako_pool_new};
pub use bindings::{
    mako_port_close, mako_port_configure, mako_port_mac, mako_port_of_device, mako_port_of_mac,
    mako_port_plug, mako_port_queue, mako_port_queue_forget, mako_port_queues, mako_port_reset,
    mako_port_resets, mako_port_socket, mako_port_start, mako_port_steer, mako_port_unplug,
};
pub use bindings::{mako_ring_free, mako_ring_new, mako_ring_pop, mako_ring_push};

mod bindings {
    #![cfg_attr(not(test), allow(dead_code, reason = "some are for tests"))]
    include!(concat!(env!("OUT_DIR"), "/dpdk_shim.rs"));
}
