/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Diagnostics for the operator, on standard error. Never guest-rate: a caller a guest can drive uses log_once. */
#ifndef LODGE_BASE_LOG_H
#define LODGE_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)
#define log_once(level, ...)                                                                       \
    do {                                                                                           \
        static _Atomic unsigned char said_;                                                        \
        if (!said_) {                                                                              \
            said_ = 1;                                                                             \
            log_msg(level, __VA_ARGS__);                                                           \
        }                                                                                          \
    } while (0)

#endif
