// A message in memory: grows as its bytes arrive, never zero-filled, moved and not copied.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "blocks.h"

namespace hr::serve {

class Bytes {
public:
    Bytes() = default;
    explicit Bytes(size_t size) { reserve(size), size_ = size; }
    explicit Bytes(std::string_view text) { append(text.data(), text.size()); }
    Bytes(Bytes&& other) noexcept { swap(other); }
    Bytes& operator=(Bytes&& other) noexcept {
        swap(other);
        return *this;
    }
    Bytes(const Bytes&) = delete;
    ~Bytes() { give(data_, capacity_); }

    char* data() { return data_; }
    const char* data() const { return data_; }
    size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    std::string_view view() const { return {data_, size_}; }
    void clear() { size_ = 0; }
    void truncate(size_t size) { size_ = size; }
    size_t room() const { return capacity_ - size_; }       // bytes that may follow without moving these

    void reserve(size_t capacity) {
        if (capacity <= capacity_) return;
        capacity = Blocks::rounded(capacity);
        void* grown;
        if (Blocks::keeps(capacity_) || Blocks::keeps(capacity)) {
            grown = Blocks::keeps(capacity) ? Blocks::take(capacity) : std::malloc(capacity);
            if (!grown) throw std::bad_alloc();
            if (size_) std::memcpy(grown, data_, size_);
            give(data_, capacity_);
        } else {
            grown = std::realloc(data_, capacity);
            if (!grown) throw std::bad_alloc();
        }
        data_ = static_cast<char*>(grown), capacity_ = capacity;
    }
    // Room for `size` more bytes, to be filled by the caller.
    char* extend(size_t size) {
        if (size_ + size > capacity_) reserve(std::max(size_ + size, capacity_ + capacity_ / 2));
        char* at = data_ + size_;
        size_ += size;
        return at;
    }
    // Bytes that somebody has put into the room behind these already are not copied.
    void append(const void* from, size_t size) {
        if (!size) return;
        if (from == data_ + size_ && size <= room()) size_ += size;
        else std::memcpy(extend(size), from, size);
    }
    void append(std::string_view text) { append(text.data(), text.size()); }
    void push(char byte) { *extend(1) = byte; }

private:
    static void give(char* data, size_t capacity) {
        if (Blocks::keeps(capacity)) Blocks::give(data, capacity);
        else std::free(data);
    }
    void swap(Bytes& other) {
        std::swap(data_, other.data_), std::swap(size_, other.size_), std::swap(capacity_, other.capacity_);
    }
    char* data_ = nullptr;
    size_t size_ = 0, capacity_ = 0;
};

}  // namespace hr::serve
