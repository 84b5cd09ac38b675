// Packed constants that outlive one program: the blocks that kernels pack when they are made, in their order.
//
// The first program that is lowered with a store fills it; each later one of the same key finds its blocks there and packs
// nothing. Blocks lie in memory of this process; in a memfd, sealed when the store is complete, that other processes map by
// descriptor; or in a mapped file. A key stands for all that decides about the blocks: the archive, the passes, the build, the
// CPU's tier. What comes by descriptor is checked against its own sizes before any of it is used.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "later.h"

namespace hr {

class PackStore {
public:
    static constexpr size_t kLeast = 16 << 10;      // smaller blocks are packed again: they are not worth a place
    static constexpr uint64_t kRecipe = 1, kArrays = 2;     // kinds of what lies behind the packed blocks: see recipe.h; and what
    static constexpr uint64_t kFacts = 3;                   // a model says of itself: see runtime/facts.py

    struct Block {
        uint64_t kind;                  // a hash of who packed what, and of types and sizes
        uint64_t offset, bytes;         // offset: in the descriptor
        uint64_t checksum;
        std::shared_ptr<char> data;
    };

    // An empty store, to be filled by one lowering; `shared`: in a memfd.
    PackStore(std::string key, bool shared);
    // A complete one, mapped read-only; the descriptor stays the caller's. `verify`: the checksums of blocks as well. Throws
    // std::invalid_argument saying what is wrong.
    static std::shared_ptr<PackStore> open(int descriptor, const std::string& key, bool verify);
    ~PackStore();
    PackStore(const PackStore&) = delete;

    const std::string& key() const { return key_; }
    bool complete() const { return complete_; }
    int descriptor() const { return descriptor_; }  // of the memfd, the store's own; -1
    const std::vector<Block>& blocks() const { return blocks_; }
    size_t packed() const { return packed_; }       // so many of them, the first ones, kernels packed
    size_t bytes() const;                           // of these
    const Block* find(uint64_t kind) const;         // one of the others; null

    std::shared_ptr<char> add(uint64_t kind, size_t bytes);     // the next block, zeroed, while the store is filled
    void finish();                                  // no more blocks: a memfd is sealed and mapped read-only
    // The blocks of a complete store are from here on, at their addresses, pages of a file with what `head`, the blocks and `index`
    // say: memory of them goes back to the system, a memfd as well.
    void rest_in(int descriptor);
    // A file that `open` reads: the head, each block with zeros behind it, the index.
    std::string head();
    std::string index();
    static size_t padding(const Block& block);
    bool mapped() const { return mapped_; }         // blocks are pages of a file or memfd, read only

private:
    void map_blocks(int descriptor);
    std::shared_ptr<char> room(size_t bytes);       // whole pages, zeroed, in memory of this process
    void give_back_rest();                          // of the last region, of which huge pages made more than blocks asked for

    std::string key_;
    bool complete_ = false, summed_ = false, mapped_ = false;
    int descriptor_ = -1;
    uint64_t end_;                                  // of the blocks in the descriptor
    std::shared_ptr<char> region_;                  // pages of which the first `taken_` of `region_bytes_` are blocks'
    size_t region_bytes_ = 0, taken_ = 0;
    std::vector<Block> blocks_;
    size_t packed_ = 0;
};

// One lowering's walk through a store, filling it or reading it; kernels that pack are made in its order.
class Packing {
public:
    explicit Packing(std::shared_ptr<PackStore> store) : store_(std::move(store)), reading_(store_->complete()) {}

    struct Place {
        std::shared_ptr<char> data;
        bool filled;
    };
    Place next(size_t bytes, uint64_t sizes);

    PackStore& store() const { return *store_; }
    Later& later() { return later_; }               // which makes the kernels
    bool reading() const { return reading_; }       // there is nothing to pack
    size_t reused() const { return reused_; }       // bytes that were found
    bool fits() const { return fits_ && (!reading_ || at_ == store_->packed()); }    // every block was the one asked for

    // While it lives, constants that this thread packs are those of a node that hashes to `node`. Null: no store.
    class Scope {
    public:
        Scope(Packing* packing, uint64_t node);
        ~Scope();
        Scope(const Scope&) = delete;

    private:
        Packing* outer_;
    };

private:
    std::shared_ptr<PackStore> store_;
    bool reading_, fits_ = true;
    size_t at_ = 0, reused_ = 0;
    uint64_t node_ = 0;
    Later later_;
};

// Zeroed memory for packed constants, 64-byte aligned, huge pages where large.
std::shared_ptr<char> packed_memory(size_t bytes);
// The same in pages of its own.
std::shared_ptr<char> mapped_memory(size_t bytes);
// A place for constants of the node that this thread makes a kernel for: filled already, or zeroed. `sizes`: a hash of their
// types and counts.
Packing::Place packed_place(size_t bytes, uint64_t sizes);

uint64_t mixed(uint64_t hash, uint64_t value);      // one more word of a hash
uint64_t checksum(const void* data, size_t bytes);  // against damage, not against an attacker

}  // namespace hr
