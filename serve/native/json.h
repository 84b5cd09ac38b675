// JSON as inference requests have it, strict and without allocation. What is unusual but allowed (escapes, text beyond ASCII)
// is "no" here too: such a request goes to Python. Source: RFC 8259.
#pragma once
#include <charconv>
#include <cmath>
#include <string_view>

#include "bytes.h"

namespace hr::serve {

class Json {
public:
    explicit Json(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

    char peek() {               // the next character of meaning; 0 at the end
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) at_++;
        return at_ == end_ ? '\0' : *at_;
    }
    bool take(char c) { return peek() == c && (at_++, true); }
    bool at_end() { return peek() == '\0' && at_ == end_; }

    bool text(std::string_view& out) {
        if (!take('"')) return false;
        const char* from = at_;
        while (at_ != end_ && *at_ >= 0x20 && *at_ < 0x7f && *at_ != '"' && *at_ != '\\') at_++;
        if (at_ == end_ || *at_ != '"') return false;
        out = {from, size_t(at_++ - from)};
        return true;
    }
    bool flag(bool& out) {
        peek();
        const std::string_view rest(at_, size_t(end_ - at_));
        out = rest.starts_with("true");
        if (!out && !rest.starts_with("false")) return false;
        at_ += out ? 4 : 5;
        return true;
    }
    // A number as it is written; `whole`: without fraction and exponent.
    bool number(std::string_view& out, bool& whole) {
        peek();
        const char* from = at_;
        const auto digits = [&] {
            const char* first = at_;
            while (at_ != end_ && *at_ >= '0' && *at_ <= '9') at_++;
            return at_ - first;
        };
        if (at_ != end_ && *at_ == '-') at_++;
        const bool zero = at_ != end_ && *at_ == '0';
        const auto count = digits();
        if (!count || (zero && count > 1)) return false;
        whole = true;
        if (at_ != end_ && *at_ == '.') {
            at_++, whole = false;
            if (!digits()) return false;
        }
        if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
            at_++, whole = false;
            if (at_ != end_ && (*at_ == '+' || *at_ == '-')) at_++;
            if (!digits()) return false;
        }
        out = {from, size_t(at_ - from)};
        return true;
    }
    bool integer(int64_t& out) {
        std::string_view token;
        bool whole;
        return number(token, whole) && whole && std::from_chars(token.data(), token.data() + token.size(), out).ec == std::errc();
    }
    // An array of numbers, flags and arrays, passed over unread.
    bool skip_array(std::string_view& out) {
        if (peek() != '[') return false;
        const char* from = at_;
        for (size_t depth = 0; at_ != end_; at_++) {
            if (*at_ == '[') depth++;
            else if (*at_ == '"' || *at_ == '{') return false;
            else if (*at_ == ']' && --depth == 0) return out = {from, size_t(++at_ - from)}, true;
        }
        return false;
    }
    // `field(key)` reads the value of each key; false ends it.
    template <class Field>
    bool object(Field&& field) {
        if (!take('{')) return false;
        if (take('}')) return true;
        do {
            std::string_view key;
            if (!text(key) || !take(':') || !field(key)) return false;
        } while (take(','));
        return take('}');
    }
    template <class Item>
    bool array(Item&& item) {
        if (!take('[')) return false;
        if (take(']')) return true;
        do
            if (!item()) return false;
        while (take(','));
        return take(']');
    }

private:
    const char *at_, *end_;
};

// The shortest text that reads as the same number, laid out as Python does: 0.1, 100000.0, 1e+16, 1e-05. Finite numbers only.
inline void put_number(Bytes& out, double value) {
    char text[32];
    const std::string_view all(text, size_t(std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr - text));
    const size_t mark = all.find('e');
    int exponent = 0;
    std::from_chars(all.data() + mark + (all[mark + 1] == '+' ? 2 : 1), all.data() + all.size(), exponent);
    if (exponent < -4 || exponent >= 16) return out.append(all);
    const bool minus = text[0] == '-';
    char digits[24];
    int n = 0;
    for (char c : all.substr(minus, mark - minus))
        if (c != '.') digits[n++] = c;
    if (minus) out.push('-');
    if (exponent < 0) {
        out.append("0.");
        for (int i = -1; i > exponent; i--) out.push('0');
        out.append({digits, size_t(n)});
        return;
    }
    for (int i = 0; i <= exponent; i++) out.push(i < n ? digits[i] : '0');
    out.push('.');
    if (n > exponent + 1) out.append({digits + exponent + 1, size_t(n - exponent - 1)});
    else out.push('0');
}

template <class Integer>
void put_integer(Bytes& out, Integer value) {
    char text[24];
    out.append({text, size_t(std::to_chars(text, text + sizeof text, value).ptr - text)});
}

// In quotes. Bytes beyond ASCII stay as they are: texts are UTF-8.
inline void put_text(Bytes& out, std::string_view text) {
    static const char digits[] = "0123456789abcdef";
    out.push('"');
    for (char c : text) {
        if (c == '"' || c == '\\') out.push('\\'), out.push(c);
        else if (static_cast<unsigned char>(c) < 0x20) out.append("\\u00"), out.push(digits[c >> 4]), out.push(digits[c & 15]);
        else out.push(c);
    }
    out.push('"');
}

}  // namespace hr::serve
