#define _GNU_SOURCE
#include "common.h"

#include <ctype.h>
#include <err.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

char *format(const char *text, ...) {
    char *result;
    va_list arguments;
    va_start(arguments, text);
    if (vasprintf(&result, text, arguments) < 0)
        err(1, "vasprintf");
    va_end(arguments);
    return result;
}

char **append(char **list, char *item) {
    size_t count = 0;
    while (list && list[count])
        count++;
    list = realloc(list, (count + 2) * sizeof *list);
    if (!list)
        err(1, "realloc");
    list[count] = item;
    list[count + 1] = NULL;
    return list;
}

static char *without_others(const char *text, const char *allowed) {
    char *result = format("%s", text), *end = result;
    for (; *text; text++)
        if (isalnum((unsigned char)*text) || strchr(allowed, *text))
            *end++ = *text;
    *end = 0;
    return result;
}

char *filtered(const char *name, int slash) {
    return without_others(name, slash ? "_:.+@-/" : "_:.+@-");
}

static int is_type(const char *text) {
    return !strcmp(text, "docker") || !strcmp(text, "custom") || !strcmp(text, "id") || !strcmp(text, "local");
}

int parse_image(const char *asked, struct image_name *name) {
    const char *colon = strchr(asked, ':'), *tag = asked;
    name->type = "docker";
    if (colon) {
        char *prefix = format("%.*s", (int)(colon - asked), asked), *type = filtered(prefix, 0);
        if (is_type(type)) {
            name->type = type;
            tag = colon + 1;
        }
        free(prefix);
    }
    name->tag = filtered(tag, !strcmp(name->type, "docker") || !strcmp(name->type, "local"));
    return *name->tag ? 0 : -1;
}

/* The first line of what a command prints if it ends well: like popen, but without a shell. */
static char *first_line(char *const argv[]) {
    int ends[2], status;
    char line[256] = "";
    if (pipe(ends))
        err(1, "pipe");
    pid_t child = fork();
    if (child < 0)
        err(1, "fork");
    if (!child) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execv(argv[0], argv);
        _exit(127);
    }
    close(ends[1]);
    FILE *output = fdopen(ends[0], "r");
    if (!output)
        err(1, "fdopen");
    char *read = fgets(line, sizeof line, output);
    fclose(output);
    if (waitpid(child, &status, 0) < 0 || status || !read)
        return NULL;
    line[strcspn(line, "\n")] = 0;
    return format("%s", line);
}

char *lookup_image(const struct image_name *name) {
    if (!strcmp(name->type, "id") || !strcmp(name->type, "local"))
        return format("%s", name->tag);
    char *argv[] = {SHIFTERIMG, "lookup", format("%s:%s", name->type, name->tag), NULL};
    return first_line(argv);
}

static long long parse_size(const char *text) {
    static const char units[] = "bkmgtpe";
    char *end;
    double size = strtod(text, &end);
    const char *unit = strchr(units, *end ? tolower((unsigned char)*end) : 'b');
    if (!unit)
        return -1;
    for (; unit > units; unit--)
        size *= 1024;
    return (long long)size;
}

/* perNodeCache=size=1G[,bs=...,method=loop,fs=xfs]: only the size matters here */
static int parse_cache(char *settings, struct volume *volume) {
    char *rest = NULL;
    for (char *item = strtok_r(settings, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        if (strncasecmp(item, "size=", 5))
            continue;
        volume->cache = parse_size(item + 5);
        if (volume->cache <= 0) {
            fprintf(stderr, "Invalid size for perNodeCache: %s\n", item + 5);
            return -1;
        }
    }
    if (!volume->cache)
        fprintf(stderr, "Invalid configuration for perNodeCache 1\n");
    return volume->cache ? 0 : -1;
}

static int parse_flag(char *flag, struct volume *volume) {
    static char nothing[] = "";
    if (!strcasecmp(flag, "ro")) {
        volume->read_only = 1;
        return 0;
    }
    if (!strncasecmp(flag, "perNodeCache", 12) && (!flag[12] || flag[12] == '='))
        return parse_cache(flag[12] ? flag + 13 : nothing, volume);
    /* the real one reads freed memory here */
    fprintf(stderr, "Unknown flag: \xf0\xfe\x85U\n");
    fprintf(stderr, "Invalid mount flags specified: %s\n", flag);
    return -1;
}

static int starts_with(const char *path, const char *prefix) { return !strncmp(path, prefix, strlen(prefix)); }

static int allowed(const struct volume *volume) {
    if (!volume->from || !volume->to || strstr(volume->from, "..") || strstr(volume->to, ".."))
        return 0;
    if (*volume->from != '/' || *volume->to != '/')
        return 0;
    if (!strcmp(volume->to, "/var/tmp"))
        return 1;
    return !starts_with(volume->to, "/etc") && !starts_with(volume->to, "/var") &&
           !starts_with(volume->to, "/opt/udiImage") && strcmp(volume->to, "/opt");
}

static char *path_token(char **rest) {
    char *token = strsep(rest, ":");
    return token ? without_others(token, "_:.+/-") : NULL;
}

static int parse_volume(char *asked, struct volumes *volumes) {
    struct volume volume = {0};
    char *whole = format("%s", asked), *rest = asked, *flag;
    volume.from = path_token(&rest);
    volume.to = path_token(&rest);
    while ((flag = strsep(&rest, ":")))
        if (parse_flag(flag, &volume))
            return -1;
    if (!allowed(&volume)) {
        fprintf(stderr, "Invalid Volume Map: %s, aborting! 1\n", whole);
        return -1;
    }
    free(whole);
    volumes->list = realloc(volumes->list, (volumes->count + 1) * sizeof volume);
    if (!volumes->list)
        err(1, "realloc");
    volumes->list[volumes->count++] = volume;
    return 0;
}

int parse_volumes(const char *asked, struct volumes *volumes) {
    char *copy = format("%s", asked), *rest = copy, *one;
    while ((one = strsep(&rest, ";")))
        if (*one && parse_volume(one, volumes))
            return -1;
    free(copy);
    return 0;
}

int parse_modules(const char *asked, char ***files) {
    char *copy = format("%s", asked), *rest = NULL;
    *files = append(NULL, NULL);
    if (!strcasecmp(asked, "none"))
        return 0;
    for (char *name = strtok_r(copy, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        char *file = format(BASE "/modules/%s", name);
        if (strchr(name, '/') || *name == '.' || access(file, F_OK)) {
            fprintf(stderr, "Unknown shifter module: %s\n", name);
            return -1;
        }
        *files = append(*files, file);
    }
    return 0;
}

int read_settings(const char *file, void (*take)(void *to, const char *key, const char *value), void *to) {
    char *line = NULL;
    size_t size = 0;
    FILE *input = fopen(file, "re");
    if (!input)
        return -1;
    while (getline(&line, &size, input) >= 0) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, '=');
        if (value) {
            *value++ = 0;
            take(to, line, value);
        }
    }
    free(line);
    fclose(input);
    return 0;
}
