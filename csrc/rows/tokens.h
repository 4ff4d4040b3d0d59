// A row as token ids: <bos> dist(c_0865,c_4879)=769 <eos>
//
// One token per character, or, in the entity vocabulary, one token per city in place of its six characters. The ids are
// those of the published tokenizer: four specials, then printable ASCII with the digits moved to the end.
#pragma once

#include <string>
#include <vector>

#include "rows/tasks.h"

namespace worldfast {

constexpr int pad_token = 0, unknown_token = 1, begin_token = 2, end_token = 3;
constexpr int character_tokens = 98;

// c is printable ASCII, '!' to '~'.
WF_HD constexpr int token_of(char c) { return c < '0' ? 4 + (c - '!') : c <= '9' ? 88 + (c - '0') : 19 + (c - ':'); }

constexpr int most_digits = 15;  // of a number: put_number multiplies to beyond them
constexpr int prompt_room = 14, most_answers = 32, answer_room = 8;  // characters, choices, characters of a choice

// What stands before the first city and the choices after '=', as tokens, so that neither driver handles text.
struct RowFormat {
    alignas(8) uint8_t prefix[prompt_room + 2];
    uint8_t answer[most_answers][answer_room];
    uint8_t answer_length[most_answers];
    int32_t prefix_length;
    int32_t semicolon;  // as in Task: the city behind which `mark` stands; -1 is the '(' before the first
    int32_t mark;       // ';', or where there is none the '(' that stands there anyway
    int32_t max_cities;
    int32_t choice;  // is the answer one of `answer`, or a number?
};

// `answers`: none for numbers. What is longer than its room does not come here.
inline RowFormat row_format(const std::string& prompt, int semicolon, int max_cities,
                            const std::vector<std::string>& answers) {
    RowFormat format{};
    format.prefix[format.prefix_length++] = begin_token;
    for (const char c : prompt) format.prefix[format.prefix_length++] = uint8_t(token_of(c));
    format.prefix[format.prefix_length++] = uint8_t(token_of('('));
    format.semicolon = semicolon;
    format.mark = token_of(semicolon < 0 ? '(' : ';');
    format.max_cities = max_cities;
    format.choice = !answers.empty();
    for (size_t i = 0; i < answers.size(); ++i)
        for (const char c : answers[i]) format.answer[i][format.answer_length[i]++] = uint8_t(token_of(c));
    return format;
}

inline RowFormat row_format(const Task& task) {
    std::vector<std::string> answers;
    for (int i = 0; i < 8 && task.answers[i]; ++i) answers.emplace_back(task.answers[i]);
    return row_format(task.prompt, task.semicolon, task.max_cities, answers);
}

// The six tokens of c_dddd in the low bytes of a word, the first lowest.
inline uint64_t city_word(int32_t id) {
    uint64_t word = uint64_t(token_of('c')) | uint64_t(token_of('_')) << 8;
    for (int digit = 5; digit >= 2; --digit, id /= 10) word |= uint64_t(token_of('0') + id % 10) << (8 * digit);
    return word;
}

// A row of at most row_capacity tokens is written here first; the slack lets a word be stored where its end sticks out.
constexpr int row_capacity = 64, row_slack = 16;

// Where rows are written side by side at once, this much room for each is enough, if none is longer than `width`: what
// sticks out is an answer's word of eight. (So does the prefix's second word, where all rows are short, and none has
// fewer than eight tokens.)
WF_HD constexpr int row_room(int64_t width) { return static_cast<int>(width) + 8; }

// Eight tokens at once; `tokens` are bytes, the first the lowest.
template <class Token>
WF_HD void put_word(Token* at, uint64_t tokens) {
#ifndef __CUDA_ARCH__
    if (sizeof(Token) == 1) {
        __builtin_memcpy(at, &tokens, sizeof tokens);
        return;
    }
#endif
    for (int i = 0; i < 8; ++i) at[i] = static_cast<Token>(tokens >> (8 * i) & 255);
}

// `bytes` is where a word may stand.
WF_HD uint64_t word_at(const uint8_t* bytes) {
    uint64_t word;
    __builtin_memcpy(&word, __builtin_assume_aligned(bytes, 8), sizeof word);
    return word;
}

// The last `digits` of four decimal digits. Without branches, since nothing predicts how many digits an answer has; up
// to four tokens are written, whatever `digits` is.
template <class Token>
WF_HD Token* put_digits(Token* at, uint32_t value, int digits) {
    uint32_t word = value / 1000 | (value / 100 % 10) << 8 | (value / 10 % 10) << 16 | (value % 10) << 24;
    word += 0x01010101u * token_of('0');
    word >>= 8 * (4 - digits);
    for (int i = 0; i < 4; ++i) at[i] = static_cast<Token>(word >> (8 * i) & 255);
    return at + digits;
}

template <class Token>
WF_HD Token* put_number(Token* at, int64_t value) {
#ifndef __CUDA_ARCH__  // only a given rule (given.h) has negative answers, and its rows are made here
    if (value < 0) {
        *at++ = static_cast<Token>(token_of('-'));
        value = -value;
    }
#endif
    int64_t unit = 1;
    while (value >= unit * 10000) unit *= 10000;
    const uint32_t first = static_cast<uint32_t>(unit == 1 ? value : value / unit);
    at = put_digits(at, first, 1 + (first >= 10) + (first >= 100) + (first >= 1000));
    while (unit > 1) {
        value %= unit;
        unit /= 10000;
        at = put_digits(at, static_cast<uint32_t>(value / unit), 4);
    }
    return at;
}

struct Span {
    int32_t length;
    int32_t answer_start;  // the first token after '='
};

// `cities` holds format.max_cities indices, -1 behind the n-th. Nothing here branches on n, which cannot be foreseen: all
// of them are written, and what is too much is written over.
template <class Token>
WF_HD Span encode(Token* row, const RowFormat& format, const int32_t* cities, int n, int64_t label,
                  const uint64_t* words) {
    put_word(row, word_at(format.prefix));
    put_word(row + 8, word_at(format.prefix + 8));
    Token* const first = row + format.prefix_length;
    const int stride = words ? 7 : 2;  // a city and the separator behind it
    for (int i = 0; i < format.max_cities; ++i) {
        const int32_t city = cities[i] < 0 ? 0 : cities[i];
        if (words) {
            put_word(first + 7 * i, words[city] | static_cast<uint64_t>(token_of(',')) << 48);
        } else {
            first[2 * i] = static_cast<Token>(character_tokens + city);
            first[2 * i + 1] = static_cast<Token>(token_of(','));
        }
    }
    Token* at = first + stride * n;
    at[-1] = static_cast<Token>(token_of(')'));
    first[stride * (format.semicolon + 1) - 1] = static_cast<Token>(format.mark);
    *at++ = static_cast<Token>(token_of('='));
    const int32_t answer_start = static_cast<int32_t>(at - row);
    if (format.choice) {
        put_word(at, word_at(format.answer[label]));
        at += format.answer_length[label];
    } else {
        at = put_number(at, label);
    }
    *at++ = end_token;
    return {static_cast<int32_t>(at - row), answer_start};
}

}  // namespace worldfast
