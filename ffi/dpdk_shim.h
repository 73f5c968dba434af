// What src/nic/dpdk asks of DPDK: flat functions over opaque pointers and integers, no struct layout.
//
// A `void *` is a pool, a ring or an mbuf, as the name says. A function that can fail returns a negative errno.
// Nothing here keeps state, but for the count of resets of each port.
#pragma once
#include <stddef.h>
#include <stdint.h>

// The environment, once per process. It pins the calling thread: give it one of its own.
int mako_eal_init(int argc, char **argv);
// The directory it has made for itself, which this server leaves empty.
const char *mako_eal_directory(void);
const char *mako_error_words(int error);
// A thread that is registered has a cache of mbufs of its own.
int mako_thread_register(void);
void mako_thread_unregister(void);

// An interface of the kernel. Takes the program off it that has frames go to AF_XDP by default, if that is all there
// is: 1 when it was there.
int mako_xdp_forget(const char *interface);
// Bytes of the longest IP packet it carries.
int mako_interface_mtu(const char *interface);
// Its queues that only receive, and those that send too.
int mako_interface_queues(const char *interface, uint32_t *receive, uint32_t *combined);
// Leaves one on it, as a process that is killed does: for tests.
int mako_xdp_leave(const char *interface);

// Ports. `bus` is vdev or pci.
int mako_port_plug(const char *bus, const char *device, const char *arguments);
int mako_port_unplug(const char *bus, const char *device);
int mako_port_of_device(const char *device);
int mako_port_of_mac(const uint8_t *mac);
int mako_port_mac(uint16_t port, uint8_t *mac);
// The NUMA node, or -1 where there is none.
int mako_port_socket(uint16_t port);
// How many queue pairs it has at most.
int mako_port_queues(uint16_t port);
// With so many queue pairs; whether it fills in or verifies checksums by itself goes to `offloads`.
int mako_port_configure(uint16_t port, uint16_t queues, uint32_t *offloads);
int mako_port_queue(uint16_t port, uint16_t queue, void *pool);
// Sets up a queue that was refused with a pool too small for a umem, which net_af_xdp refuses earlier.
void mako_port_queue_forget(uint16_t port, uint16_t queue);
int mako_port_start(uint16_t port);
// Frames to this UDP port of IPv4 go to this queue.
int mako_port_steer(uint16_t port, uint16_t queue, uint16_t udp_port);
// Counts how often the device has asked to be reset; for as long as the process lives.
uint32_t *mako_port_resets(uint16_t port);
// As if the device had asked: for tests, which have no device that does.
void mako_port_ask_reset(uint16_t port);
// To be configured from the start after this; -ENOTSUP from a device that never asks.
int mako_port_reset(uint16_t port);
void mako_port_close(uint16_t port);

#define MAKO_OFFLOAD_TX 1u
#define MAKO_OFFLOAD_RX 2u

// Pools of mbufs. With `one_piece` the mbufs lie side by side in one piece of memory, or there is no pool.
void *mako_pool_new(const char *name, uint32_t mbufs, int socket, int one_piece, int *error);
void mako_pool_free(void *pool);
uint32_t mako_pool_available(void *pool);

// Mbufs. A fresh one for a frame of so many bytes, whose checksums of IPv4 and UDP the device may have to fill in; null
// when the pool is empty.
void *mako_mbuf_new(void *pool, uint16_t bytes, int offload, uint8_t **room);
void mako_mbufs_free(void **mbufs, uint16_t count);

// Bursts. Beside each mbuf its frame, and the frame's length with what is known of its checksum.
uint16_t mako_receive(uint16_t port, uint16_t queue, void **mbufs, uint8_t **frames, uint32_t *lengths, uint16_t most);
uint16_t mako_send(uint16_t port, uint16_t queue, void **mbufs, uint16_t count);

#define MAKO_LENGTH_MASK 0xffffu
#define MAKO_CHECKSUM_GOOD 0x10000u
#define MAKO_CHECKSUM_BAD 0x20000u

// Whether the next so many bytes that are free are zero, as the driver of a port relies on.
int mako_heap_is_zero(size_t bytes);

// Rings of mbufs, from any thread to one.
void *mako_ring_new(const char *name, uint32_t mbufs, int socket, int *error);
void mako_ring_free(void *ring);
int mako_ring_push(void *ring, void *mbuf);
uint16_t mako_ring_pop(void *ring, void **mbufs, uint8_t **frames, uint32_t *lengths, uint16_t most);
