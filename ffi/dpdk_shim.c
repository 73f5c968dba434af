// Wraps what DPDK offers as inline functions, macros and structs. Decides nothing.
#include "dpdk_shim.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mbuf_pool_ops.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <bpf/libbpf.h>
#include <xdp/libxdp.h>
#include <xdp/xsk.h>

// As many as net_af_xdp has by default; others round to what they can.
#define DESCRIPTORS 1024
// Of each thread; above a burst, or the cache is passed by.
#define CACHED 256

static uint32_t resets[RTE_MAX_ETHPORTS];

int mako_eal_init(int argc, char **argv) {
    // What net_af_xdp rests on talks at length of what works.
    libbpf_set_print(NULL);
    libxdp_set_print(NULL);
    return rte_eal_init(argc, argv) < 0 ? -rte_errno : 0;
}

const char *mako_eal_directory(void) {
    return rte_eal_get_runtime_dir();
}

const char *mako_error_words(int error) {
    return rte_strerror(error < 0 ? -error : error);
}

int mako_thread_register(void) {
    return rte_thread_register() < 0 ? -rte_errno : 0;
}

void mako_thread_unregister(void) {
    rte_thread_unregister();
}

int mako_xdp_forget(const char *interface) {
    unsigned index = if_nametoindex(interface);
    if (index == 0)
        return -errno;
    struct xdp_multiprog *all = xdp_multiprog__get_from_ifindex((int)index);
    if (all == NULL || libxdp_get_error(all) != 0)
        return 0;
    // One alone is there by itself; several, or one beside others, hang on a program of libxdp's own.
    struct xdp_program *only = xdp_multiprog__is_legacy(all) ? xdp_multiprog__main_prog(all)
                               : xdp_multiprog__program_count(all) == 1 ? xdp_multiprog__next_prog(NULL, all)
                                                                        : NULL;
    const char *name = only == NULL ? NULL : xdp_program__name(only);
    int outcome = 0;
    if (name != NULL && strncmp(name, "xsk_def", strlen("xsk_def")) == 0)
        outcome = xdp_multiprog__detach(all);
    else
        name = NULL;
    xdp_multiprog__close(all);
    return outcome < 0 ? outcome : name != NULL;
}

int mako_xdp_leave(const char *interface) {
    int map = -1;
    int outcome = xsk_setup_xdp_prog((int)if_nametoindex(interface), &map);
    if (map >= 0)
        close(map);
    return outcome;
}

static int ask_interface(const char *interface, unsigned long question, struct ifreq *request) {
    strncpy(request->ifr_name, interface, IFNAMSIZ - 1);
    int any = socket(AF_INET, SOCK_DGRAM, 0);
    if (any < 0)
        return -errno;
    int outcome = ioctl(any, question, request) < 0 ? -errno : 0;
    close(any);
    return outcome;
}

int mako_interface_mtu(const char *interface) {
    struct ifreq request = {0};
    int outcome = ask_interface(interface, SIOCGIFMTU, &request);
    return outcome < 0 ? outcome : request.ifr_mtu;
}

int mako_interface_queues(const char *interface, uint32_t *receive, uint32_t *combined) {
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    struct ifreq request = {.ifr_data = (void *)&channels};
    int outcome = ask_interface(interface, SIOCETHTOOL, &request);
    *receive = channels.rx_count;
    *combined = channels.combined_count;
    return outcome;
}

int mako_port_plug(const char *bus, const char *device, const char *arguments) {
    return rte_eal_hotplug_add(bus, device, arguments);
}

int mako_port_unplug(const char *bus, const char *device) {
    return rte_eal_hotplug_remove(bus, device);
}

int mako_port_of_device(const char *device) {
    uint16_t port;
    int outcome = rte_eth_dev_get_port_by_name(device, &port);
    return outcome < 0 ? outcome : port;
}

int mako_port_of_mac(const uint8_t *mac) {
    uint16_t port;
    RTE_ETH_FOREACH_DEV(port) {
        struct rte_ether_addr address;
        if (rte_eth_macaddr_get(port, &address) == 0 && memcmp(address.addr_bytes, mac, 6) == 0)
            return port;
    }
    return -ENODEV;
}

int mako_port_mac(uint16_t port, uint8_t *mac) {
    struct rte_ether_addr address;
    int outcome = rte_eth_macaddr_get(port, &address);
    if (outcome == 0)
        memcpy(mac, address.addr_bytes, 6);
    return outcome;
}

int mako_port_socket(uint16_t port) {
    return rte_eth_dev_socket_id(port);
}

int mako_port_queues(uint16_t port) {
    struct rte_eth_dev_info info;
    int outcome = rte_eth_dev_info_get(port, &info);
    return outcome < 0 ? outcome : RTE_MIN(info.max_rx_queues, info.max_tx_queues);
}

static int on_reset(uint16_t port, enum rte_eth_event_type event, void *argument, void *value) {
    (void)event, (void)argument, (void)value;
    mako_port_ask_reset(port);
    return 0;
}

int mako_port_configure(uint16_t port, uint16_t queues, uint32_t *offloads) {
    const uint64_t tx = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
    const uint64_t rx = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
    struct rte_eth_dev_info info;
    struct rte_eth_conf conf = {0};
    int outcome = rte_eth_dev_info_get(port, &info);
    if (outcome < 0)
        return outcome;
    *offloads = 0;
    if ((info.tx_offload_capa & tx) == tx) {
        conf.txmode.offloads |= tx;
        *offloads |= MAKO_OFFLOAD_TX;
    }
    if ((info.rx_offload_capa & rx) == rx) {
        conf.rxmode.offloads |= rx;
        *offloads |= MAKO_OFFLOAD_RX;
    }
    rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_INTR_RESET, on_reset, (void *)-1);
    outcome = rte_eth_dev_configure(port, queues, queues, &conf);
    if (outcome == 0)
        outcome = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RESET, on_reset, NULL);
    return outcome;
}

int mako_port_queue(uint16_t port, uint16_t queue, void *pool) {
    uint16_t rx = DESCRIPTORS, tx = DESCRIPTORS;
    int socket = rte_eth_dev_socket_id(port);
    int outcome = rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx, &tx);
    if (outcome == 0)
        outcome = rte_eth_rx_queue_setup(port, queue, rx, socket, NULL, pool);
    if (outcome == 0)
        outcome = rte_eth_tx_queue_setup(port, queue, tx, socket, NULL);
    return outcome;
}

void mako_port_queue_forget(uint16_t port, uint16_t queue) {
    const uint16_t room = RTE_PKTMBUF_HEADROOM + 64;
    int socket = rte_eth_dev_socket_id(port);
    struct rte_mempool *small = rte_pktmbuf_pool_create("mako_small", 1, 0, 0, room, socket);
    if (small != NULL)
        rte_eth_rx_queue_setup(port, queue, DESCRIPTORS, socket, NULL, small);
    rte_mempool_free(small);
}

int mako_port_start(uint16_t port) {
    return rte_eth_dev_start(port);
}

int mako_port_steer(uint16_t port, uint16_t queue, uint16_t udp_port) {
    struct rte_flow_attr attributes = {.ingress = 1};
    struct rte_flow_item_udp udp = {.hdr.dst_port = rte_cpu_to_be_16(udp_port)};
    struct rte_flow_item_udp udp_mask = {.hdr.dst_port = 0xffff};
    struct rte_flow_action_queue target = {.index = queue};
    struct rte_flow_item pattern[] = {
        {.type = RTE_FLOW_ITEM_TYPE_ETH},
        {.type = RTE_FLOW_ITEM_TYPE_IPV4},
        {.type = RTE_FLOW_ITEM_TYPE_UDP, .spec = &udp, .mask = &udp_mask},
        {.type = RTE_FLOW_ITEM_TYPE_END},
    };
    struct rte_flow_action actions[] = {
        {.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &target},
        {.type = RTE_FLOW_ACTION_TYPE_END},
    };
    struct rte_flow_error why;
    return rte_flow_create(port, &attributes, pattern, actions, &why) == NULL ? -rte_errno : 0;
}

uint32_t *mako_port_resets(uint16_t port) {
    return &resets[port];
}

void mako_port_ask_reset(uint16_t port) {
    __atomic_fetch_add(&resets[port], 1, __ATOMIC_RELEASE);
}

int mako_port_reset(uint16_t port) {
    return rte_eth_dev_reset(port);
}

void mako_port_close(uint16_t port) {
    rte_eth_dev_stop(port);
    rte_eth_dev_close(port);
}

int mako_heap_is_zero(size_t bytes) {
    uint8_t *block = rte_zmalloc(NULL, bytes, 0);
    size_t zeros = 0;
    while (block != NULL && zeros < bytes && block[zeros] == 0)
        zeros++;
    rte_free(block);
    return zeros == bytes;
}

void *mako_pool_new(const char *name, uint32_t mbufs, int socket, int one_piece, int *error) {
    const unsigned size = sizeof(struct rte_mbuf) + RTE_MBUF_DEFAULT_BUF_SIZE;
    // Without the flag no mbuf crosses a page, which leaves a gap at the end of each.
    const unsigned flags = one_piece ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0;
    struct rte_pktmbuf_pool_private sizes = {.mbuf_data_room_size = RTE_MBUF_DEFAULT_BUF_SIZE};
    struct rte_mempool *pool =
        rte_mempool_create_empty(name, mbufs, size, CACHED, sizeof(sizes), socket, flags);
    if (pool == NULL) {
        *error = -rte_errno;
        return NULL;
    }
    *error = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
    if (*error == 0) {
        rte_pktmbuf_pool_init(pool, &sizes);
        int populated = rte_mempool_populate_default(pool);
        *error = populated < 0 ? populated : one_piece && pool->nb_mem_chunks != 1 ? -ENOMEM : 0;
    }
    if (*error != 0) {
        rte_mempool_free(pool);
        return NULL;
    }
    rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
    return pool;
}

void mako_pool_free(void *pool) {
    rte_mempool_free(pool);
}

uint32_t mako_pool_available(void *pool) {
    return rte_mempool_avail_count(pool);
}

void *mako_mbuf_new(void *pool, uint16_t bytes, int offload, uint8_t **room) {
    struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
    if (m == NULL)
        return NULL;
    m->data_len = bytes;
    m->pkt_len = bytes;
    if (offload) {
        m->l2_len = 14;
        m->l3_len = 20;
        m->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_UDP_CKSUM;
    }
    *room = rte_pktmbuf_mtod(m, uint8_t *);
    return m;
}

void mako_mbufs_free(void **mbufs, uint16_t count) {
    rte_pktmbuf_free_bulk((struct rte_mbuf **)mbufs, count);
}

static void describe(void **mbufs, uint8_t **frames, uint32_t *lengths, uint16_t count) {
    for (uint16_t i = 0; i < count; i++) {
        const struct rte_mbuf *m = mbufs[i];
        const uint64_t l4 = m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
        const uint64_t ip = m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
        frames[i] = rte_pktmbuf_mtod(m, uint8_t *);
        // No frame of ours is in pieces: an empty one belongs to nobody.
        lengths[i] = m->nb_segs == 1 ? m->data_len : 0;
        if (l4 == RTE_MBUF_F_RX_L4_CKSUM_BAD || ip == RTE_MBUF_F_RX_IP_CKSUM_BAD)
            lengths[i] |= MAKO_CHECKSUM_BAD;
        else if (l4 == RTE_MBUF_F_RX_L4_CKSUM_GOOD && ip == RTE_MBUF_F_RX_IP_CKSUM_GOOD)
            lengths[i] |= MAKO_CHECKSUM_GOOD;
    }
}

uint16_t mako_receive(uint16_t port, uint16_t queue, void **mbufs, uint8_t **frames, uint32_t *lengths, uint16_t most) {
    uint16_t count = rte_eth_rx_burst(port, queue, (struct rte_mbuf **)mbufs, most);
    describe(mbufs, frames, lengths, count);
    return count;
}

uint16_t mako_send(uint16_t port, uint16_t queue, void **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, (struct rte_mbuf **)mbufs, count);
}

void *mako_ring_new(const char *name, uint32_t mbufs, int socket, int *error) {
    // A producer that loses its CPU in the middle of a push must not hold up the others.
    struct rte_ring *ring = rte_ring_create(name, mbufs, socket, RING_F_MP_RTS_ENQ | RING_F_SC_DEQ);
    *error = ring == NULL ? -rte_errno : 0;
    return ring;
}

void mako_ring_free(void *ring) {
    rte_ring_free(ring);
}

int mako_ring_push(void *ring, void *mbuf) {
    return rte_ring_enqueue(ring, mbuf);
}

uint16_t mako_ring_pop(void *ring, void **mbufs, uint8_t **frames, uint32_t *lengths, uint16_t most) {
    uint16_t count = rte_ring_dequeue_burst(ring, mbufs, most, NULL);
    describe(mbufs, frames, lengths, count);
    return count;
}
