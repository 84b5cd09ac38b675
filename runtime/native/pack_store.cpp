#include "pack_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "buffer.h"
#include "huge_pages.h"

namespace hr {

namespace {

bool is_packed(uint64_t kind) { return kind > PackStore::kFacts; }

constexpr uint64_t kPage = 4096;                // blocks begin at multiples of it, and of the system's pages
constexpr uint64_t kLargest = uint64_t(1) << 40;
constexpr uint64_t kMostBlocks = 1 << 20;
constexpr size_t kOwnMapping = size_t(4) << 20; // from here on memory comes from the system, as zeros
constexpr uint64_t kFirstRegion = 1 << 20, kLastRegion = 32 << 20;
constexpr char kMagic[8] = {'H', 'R', 'P', 'A', 'C', 'K', '0', '1'};

// The first page; then the blocks; then `count` rows. In the byte order of the CPU, whose tier is in the key.
struct Head {
    char magic[8];
    uint64_t file_bytes, index_at, count, index_sum, key_bytes;
    char key[256];
};
struct Row {
    uint64_t kind, offset, bytes, checksum;
};

thread_local Packing* current = nullptr;

uint64_t page() {
    static const uint64_t size = std::max(kPage, uint64_t(sysconf(_SC_PAGESIZE)));
    return size;
}
uint64_t pages(uint64_t bytes) { return (bytes + page() - 1) / page() * page(); }

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }
[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void write_at(int descriptor, std::string_view data, uint64_t at) {
    while (!data.empty()) {
        const ssize_t n = pwrite(descriptor, data.data(), data.size(), off_t(at));
        if (n < 0 && errno != EINTR) fail("packed constants cannot be written");
        if (n > 0) data.remove_prefix(size_t(n)), at += uint64_t(n);
    }
}

}  // namespace

uint64_t mixed(uint64_t hash, uint64_t value) { return std::rotl((hash ^ value) * 0x9e3779b97f4a7c15u, 29); }

uint64_t checksum(const void* data, size_t bytes) {
    constexpr size_t kLanes = 8;                // as many as hide the latency of a product
    const char* from = static_cast<const char*>(data);
    uint64_t lane[kLanes];
    for (size_t i = 0; i < kLanes; i++) lane[i] = i + 1;
    size_t at = 0;
    for (; at + kLanes * 8 <= bytes; at += kLanes * 8)
        for (size_t i = 0; i < kLanes; i++) {
            uint64_t word;
            std::memcpy(&word, from + at + i * 8, 8);
            lane[i] = mixed(lane[i], word);
        }
    uint64_t sum = bytes;
    for (; at < bytes; at++) sum = mixed(sum, uint8_t(from[at]));
    for (uint64_t one : lane) sum = mixed(sum, one);
    return sum;
}

std::shared_ptr<char> packed_memory(size_t bytes) {
    if (bytes < kOwnMapping) {
        auto* data = static_cast<char*>(aligned_memory(bytes));
        std::memset(data, 0, bytes);
        return {data, [](char* p) { std::free(p); }};
    }
    return mapped_memory(bytes);
}

std::shared_ptr<char> mapped_memory(size_t bytes) {
    if (bytes > kLargest) throw std::bad_alloc();
    const size_t length = pages(bytes), room = bytes < kOwnMapping ? length : length + kHugePage;
    void* all = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    if (room == length) return {static_cast<char*>(all), [length](char* p) { munmap(p, length); }};
    // It begins at a huge page; what lies around goes back.
    auto* begin = static_cast<char*>(all);
    char* data = begin + (kHugePage - reinterpret_cast<uintptr_t>(all) % kHugePage) % kHugePage;
    if (data != begin) munmap(begin, size_t(data - begin));
    if (data + length != begin + room) munmap(data + length, size_t(begin + room - data - length));
    advise_huge(data, length);
    return {data, [length](char* p) { munmap(p, length); }};
}

PackStore::PackStore(std::string key, bool shared) : key_(std::move(key)), end_(page()) {
    if (key_.size() > sizeof(Head::key)) refuse("the key has more than " + std::to_string(sizeof(Head::key)) + " bytes");
    if (!shared) return;
    descriptor_ = memfd_create("headrace-packed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor_ < 0) fail("no memory can be shared");
}

PackStore::~PackStore() {
    if (descriptor_ >= 0) close(descriptor_);
}

size_t PackStore::bytes() const {
    size_t total = 0;
    for (size_t i = 0; i < packed_; i++) total += blocks_[i].bytes;
    return total;
}

const PackStore::Block* PackStore::find(uint64_t kind) const {
    for (size_t i = packed_; i < blocks_.size(); i++)
        if (blocks_[i].kind == kind) return &blocks_[i];
    return nullptr;
}

std::shared_ptr<char> PackStore::add(uint64_t kind, size_t bytes) {
    if (complete_) throw std::logic_error("a complete store takes no blocks");
    if (bytes > kLargest) throw std::bad_alloc();
    const uint64_t length = pages(bytes);
    std::shared_ptr<char> data;
    if (descriptor_ < 0) {
        data = room(length);
    } else {
        if (ftruncate(descriptor_, off_t(end_ + length))) throw std::bad_alloc();
        void* at = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, off_t(end_));
        if (at == MAP_FAILED) throw std::bad_alloc();
        data = {static_cast<char*>(at), [length](char* p) { munmap(p, length); }};
    }
    blocks_.push_back({kind, end_, bytes, 0, data});
    if (is_packed(kind)) packed_ = blocks_.size();
    end_ += length;
    return data;
}

// Blocks lie one behind the other: many small ones in huge pages, too, each of which the system makes in the time of two or
// three small ones. Regions are as large as what there is already, so that a small model has no large one.
std::shared_ptr<char> PackStore::room(size_t bytes) {
    if (bytes > region_bytes_ - taken_) {
        give_back_rest();
        region_bytes_ = std::max<size_t>(bytes, std::clamp(end_, kFirstRegion, kLastRegion));
        region_ = mapped_memory(region_bytes_), taken_ = 0;
    }
    return {region_, region_.get() + std::exchange(taken_, taken_ + bytes)};
}

void PackStore::give_back_rest() {
    if (taken_ < region_bytes_) madvise(region_.get() + taken_, region_bytes_ - taken_, MADV_DONTNEED);
    region_ = nullptr, region_bytes_ = taken_ = 0;
}

void PackStore::finish() {
    if (complete_) return;
    complete_ = true;
    give_back_rest();
    if (descriptor_ < 0) return;
    write_at(descriptor_, index(), end_);
    write_at(descriptor_, head(), 0);
    map_blocks(descriptor_);    // so that nobody can write any more: a private mapping does not hinder the seals
    if (fcntl(descriptor_, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) fail("packed constants cannot be sealed");
}

void PackStore::rest_in(int descriptor) {
    if (!complete_ || (mapped_ && descriptor_ < 0)) throw std::logic_error("only blocks in memory can rest in a file");
    struct stat facts;
    if (fstat(descriptor, &facts)) fail("packed constants cannot be mapped");
    if (uint64_t(facts.st_size) < end_) refuse("the file has " + std::to_string(facts.st_size) + " bytes, and blocks end at " + std::to_string(end_));
    map_blocks(descriptor);
    if (descriptor_ >= 0) close(std::exchange(descriptor_, -1));
}

void PackStore::map_blocks(int descriptor) {
    for (const Block& block : blocks_)
        if (mmap(block.data.get(), pages(block.bytes), PROT_READ, MAP_PRIVATE | MAP_FIXED, descriptor, off_t(block.offset)) == MAP_FAILED)
            fail("packed constants cannot be mapped");
    mapped_ = true;
}

std::string PackStore::index() {
    if (!summed_)   // only what others read needs them
        for (Block& block : blocks_) block.checksum = checksum(block.data.get(), block.bytes);
    summed_ = complete_;
    std::string rows;
    for (const Block& block : blocks_) {
        const Row row{block.kind, block.offset, block.bytes, block.checksum};
        rows.append(reinterpret_cast<const char*>(&row), sizeof row);
    }
    return rows;
}

std::string PackStore::head() {
    const std::string rows = index();
    Head head{};
    std::memcpy(head.magic, kMagic, sizeof kMagic);
    head.index_at = end_, head.count = blocks_.size(), head.file_bytes = end_ + rows.size();
    head.index_sum = checksum(rows.data(), rows.size());
    head.key_bytes = key_.size();
    std::memcpy(head.key, key_.data(), key_.size());
    std::string bytes(reinterpret_cast<const char*>(&head), sizeof head);
    bytes.resize(page());
    return bytes;
}

size_t PackStore::padding(const Block& block) { return pages(block.bytes) - block.bytes; }

std::shared_ptr<PackStore> PackStore::open(int descriptor, const std::string& key, bool verify) {
    struct stat facts;
    if (fstat(descriptor, &facts)) fail("packed constants cannot be read");
    const auto size = uint64_t(facts.st_size);
    if (!S_ISREG(facts.st_mode) || size < sizeof(Head) || size > kLargest) refuse("it is no file of packed constants");
    void* at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (at == MAP_FAILED) fail("packed constants cannot be mapped");
    const std::shared_ptr<char> all(static_cast<char*>(at), [size](char* p) { munmap(p, size); });
    Head head;
    std::memcpy(&head, all.get(), sizeof head);
    if (std::memcmp(head.magic, kMagic, sizeof kMagic)) refuse("it does not begin as packed constants do");
    if (head.file_bytes != size) refuse("it has " + std::to_string(size) + " bytes, and was written with " + std::to_string(head.file_bytes));
    if (head.key_bytes > sizeof head.key || std::string_view(head.key, head.key_bytes) != key) refuse("it is of another archive, build or CPU");
    if (head.count > kMostBlocks || head.index_at > size || size - head.index_at != head.count * sizeof(Row)) refuse("its index is not inside it");
    if (checksum(all.get() + head.index_at, size - head.index_at) != head.index_sum) refuse("its index is damaged");
    auto store = std::make_shared<PackStore>(key, false);
    uint64_t end = kPage;
    for (uint64_t i = 0; i < head.count; i++) {
        Row row;
        std::memcpy(&row, all.get() + head.index_at + i * sizeof row, sizeof row);
        if (row.offset < end || row.offset % kPage || row.offset > head.index_at || row.bytes > head.index_at - row.offset) refuse("block " + std::to_string(i) + " is not inside it");
        if ((verify || row.kind == kRecipe || row.kind == kFacts) && checksum(all.get() + row.offset, row.bytes) != row.checksum) refuse("block " + std::to_string(i) + " is damaged");
        end = row.offset + row.bytes;
        store->blocks_.push_back({row.kind, row.offset, row.bytes, row.checksum, {all, all.get() + row.offset}});
        if (is_packed(row.kind)) store->packed_ = store->blocks_.size();
    }
    store->complete_ = store->summed_ = store->mapped_ = true;
    return store;
}

Packing::Place Packing::next(size_t bytes, uint64_t sizes) {
    if (bytes < PackStore::kLeast) return {packed_memory(bytes), false};
    const uint64_t kind = mixed(node_, sizes) | uint64_t(1) << 63;     // none of what lies behind
    if (!reading_) return {store_->add(kind, bytes), false};
    if (fits_ && at_ < store_->packed()) {
        const PackStore::Block& block = store_->blocks()[at_];
        if (block.kind == kind && block.bytes == bytes) return at_++, reused_ += bytes, Place{block.data, true};
    }
    fits_ = false;      // what follows is of other nodes, too
    return {packed_memory(bytes), false};
}

Packing::Scope::Scope(Packing* packing, uint64_t node) : outer_(current) {
    current = packing;
    if (packing) packing->node_ = node;
}

Packing::Scope::~Scope() { current = outer_; }

Packing::Place packed_place(size_t bytes, uint64_t sizes) {
    if (current) return current->next(bytes, sizes);
    return {packed_memory(bytes), false};
}

}  // namespace hr
