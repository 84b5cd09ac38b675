// What waits for the kernel to take it: small pieces joined in one buffer, large ones kept where they are and written from
// there. Loop thread only.
#pragma once
#include <sys/uio.h>

#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "bytes.h"
#include "socket.h"

namespace hr::serve {

class Outbox {
public:
    static constexpr size_t kHeld = 4 << 10;        // smaller pieces are cheaper to copy

    size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

    void append(std::string_view bytes) {
        if (bytes.empty()) return;
        if (pieces_.empty() || pieces_.back().held) pieces_.emplace_back();
        pieces_.back().text += bytes;
        size_ += bytes.size();
    }
    // `bytes` lie in `owner`, which lives until they are written.
    void append(std::string_view bytes, const std::shared_ptr<const Bytes>& owner) {
        if (bytes.size() < kHeld) return append(bytes);
        pieces_.push_back({{}, owner, bytes});
        size_ += bytes.size();
    }
    // Writes what the kernel takes; false: the client is gone.
    bool write(Socket& socket) {
        while (size_) {
            iovec parts[kParts];
            int n = 0;
            size_t skip = at_;
            for (const Piece& piece : pieces_) {
                if (n == kParts) break;
                const std::string_view rest = piece.view().substr(std::exchange(skip, 0));
                if (!rest.empty()) parts[n++] = {const_cast<char*>(rest.data()), rest.size()};
            }
            const auto [result, bytes] = socket.write(parts, n);
            if (result == Socket::Result::closed) return false;
            if (result == Socket::Result::again) return true;
            taken(bytes);
        }
        return true;
    }

private:
    static constexpr int kParts = 64;
    struct Piece {
        std::string text;
        std::shared_ptr<const Bytes> held;
        std::string_view part;
        std::string_view view() const { return held ? part : std::string_view(text); }
    };

    void taken(size_t bytes) {
        size_ -= bytes, at_ += bytes;
        while (!pieces_.empty() && at_ >= pieces_.front().view().size()) {
            at_ -= pieces_.front().view().size();
            if (pieces_.size() == 1 && !pieces_.front().held) return pieces_.front().text.clear();       // its memory serves the next answers
            pieces_.pop_front();
        }
    }
    std::deque<Piece> pieces_;
    size_t at_ = 0;                 // of the first piece
    size_t size_ = 0;
};

}  // namespace hr::serve
