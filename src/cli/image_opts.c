/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of lodge image's verbs. */
#include "cli/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A name as Debian has them, or several with commas between. */
static int opt_packages(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    struct image_packages *p = field;
    char *more;

    if (!*val || strspn(val, "abcdefghijklmnopqrstuvwxyz0123456789+-.:,") != strlen(val) ||
        !strchr("abcdefghijklmnopqrstuvwxyz0123456789", val[0]))
        return err_set(err, -EINVAL, "--%s takes the name of a package, not '%s'", opt->name, val);
    if (asprintf(&more, "%s%s%s", p->list ? p->list : "", p->list ? "," : "", val) < 0)
        return err_set(err, -EINVAL, "no memory for --%s", opt->name);
    free(p->list);
    p->list = more;
    return 0;
}

/* Room for a small system; and what ext4 with blocks of 4 KiB and the tables of a small one can grow to. */
#define SIZE_MIN       MIB(512)
#define SIZE_MAX_GROWN GIB(512)

const struct opt_desc image_build_opts[] = {
    {.name = "size",
     .arg = "SIZE",
     .parse = opt_size,
     .def = "10G",
     .min = SIZE_MIN,
     .max = SIZE_MAX_GROWN,
     .field = offsetof(struct image_build_opts, size),
     .help =
         "size of the disks of guests made from it, which take\nspace only as they are written to"},
    {.name = "package",
     .arg = "NAME",
     .parse = opt_packages,
     .field = offsetof(struct image_build_opts, packages),
     .help = "a package to add; may be repeated"},
    {.name = "tag",
     .letter = 't',
     .arg = "NAME",
     .parse = opt_string,
     .field = offsetof(struct image_build_opts, tag),
     .help = "name of the image, if not that of what is built"},
    {.name = "mirror",
     .arg = "URI",
     .parse = opt_string,
     .field = offsetof(struct image_build_opts, mirror),
     .help = "where packages come from, now and in the guest; without\nit that is where this "
             "host's own come from"},
    {.name = "force",
     .letter = 'f',
     .parse = opt_flag,
     .field = offsetof(struct image_build_opts, force),
     .help = "replace an image of that name"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .field = offsetof(struct image_build_opts, quiet),
     .help = "show no progress"},
    {NULL},
};

const struct opt_desc image_ls_opts[] = {
    {.name = "format",
     .arg = "table|json",
     .parse = opt_choice,
     .choices = "table|json",
     .def = "table",
     .field = offsetof(struct image_ls_opts, format),
     .help = "how to print the list"},
    {NULL},
};

const struct opt_desc image_rm_opts[] = {
    {.name = "force",
     .letter = 'f',
     .parse = opt_flag,
     .field = offsetof(struct image_rm_opts, force),
     .help = "also when guests stand on it, whose disks are useless\nthen"},
    {NULL},
};

const struct opt_desc image_import_opts[] = {
    {.name = "type",
     .letter = 't',
     .arg = "raw|qcow2|vmdk|vdi|vhdx",
     .parse = opt_choice,
     .choices = "raw|qcow2|vmdk|vdi|vhdx",
     .field = offsetof(struct image_import_opts, type),
     .help = "format of the file; without it the name decides"},
    {.name = "kernel",
     .arg = "FILE",
     .parse = opt_file,
     .field = offsetof(struct image_import_opts, kernel),
     .help = "kernel that starts the system (default: the newest on\nthe disk, if its file system "
             "is ext)"},
    {.name = "initrd",
     .arg = "FILE",
     .parse = opt_file,
     .field = offsetof(struct image_import_opts, initrd),
     .help = "its initial RAM disk"},
    {.name = "append",
     .arg = "TEXT",
     .parse = opt_string,
     .field = offsetof(struct image_import_opts, append),
     .help = "its command line (default: with the console on the\nserial port, and the root that "
             "was found)"},
    {.name = "user",
     .arg = "NAME",
     .parse = opt_string,
     .def = "debian",
     .field = offsetof(struct image_import_opts, user),
     .help = "who logs in"},
    {.name = "seed",
     .arg = "cloud-init|none",
     .parse = opt_choice,
     .choices = "cloud-init|none",
     .def = "cloud-init",
     .field = offsetof(struct image_import_opts, seed),
     .help = "what in the guest takes settings: cloud-init (NoCloud),\nor nothing"},
    {.name = "size",
     .arg = "SIZE",
     .parse = opt_size,
     .field = offsetof(struct image_import_opts, size),
     .help = "size of the disks of guests made from it; without it\nthat of the file's disk"},
    {.name = "force",
     .letter = 'f',
     .parse = opt_flag,
     .field = offsetof(struct image_import_opts, force),
     .help = "replace an image of that name"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .field = offsetof(struct image_import_opts, quiet),
     .help = "show no progress"},
    {NULL},
};

const struct opt_desc image_create_opts[] = {
    {.name = "type",
     .letter = 't',
     .arg = "qcow2|raw",
     .parse = opt_choice,
     .choices = "qcow2|raw",
     .field = offsetof(struct image_create_opts, format),
     .help =
         "format of the image; without it the name decides:\nraw for .raw and .img, else qcow2"},
    {.name = "backing",
     .letter = 'b',
     .arg = "FILE",
     .parse = opt_file,
     .field = offsetof(struct image_create_opts, backing),
     .help = "what is not written yet is read from this image; a\n"
             "relative name is relative to the new image's directory"},
    {.name = "backing-type",
     .letter = 'B',
     .arg = "qcow2|raw",
     .parse = opt_choice,
     .choices = "qcow2|raw",
     .field = offsetof(struct image_create_opts, backing_format),
     .help = "format of that image; without it the name decides"},
    {.name = "cluster-size",
     .arg = "SIZE",
     .parse = opt_size,
     .field = offsetof(struct image_create_opts, cluster_size),
     .help = "unit of allocation, 512B to 2M (64K unless given)"},
    {.name = "lazy-refcounts",
     .parse = opt_flag,
     .field = offsetof(struct image_create_opts, lazy),
     .help = "write reference counts at the end only; they are\ncomputed anew after a crash"},
    {.name = "force",
     .letter = 'f',
     .parse = opt_flag,
     .field = offsetof(struct image_create_opts, force),
     .help = "overwrite an existing file"},
    {NULL},
};

const struct opt_desc image_resize_opts[] = {
    {.name = "type",
     .letter = 't',
     .arg = "qcow2|raw",
     .parse = opt_choice,
     .choices = "qcow2|raw",
     .field = offsetof(struct image_resize_opts, format),
     .help = "format of the image; without it the name decides"},
    {.name = "shrink",
     .parse = opt_flag,
     .field = offsetof(struct image_resize_opts, shrink),
     .help = "let the disk get smaller; what lies behind is lost"},
    {NULL},
};

const struct opt_desc image_info_opts[] = {
    {.name = "format",
     .arg = "table|json",
     .parse = opt_choice,
     .choices = "table|json",
     .def = "table",
     .field = offsetof(struct image_info_opts, format),
     .help = "how to print what was found"},
    {NULL},
};

const struct opt_desc image_check_opts[] = {
    {.name = "repair",
     .letter = 'r',
     .arg = "leaks|all",
     .parse = opt_choice,
     .choices = "leaks|all",
     .field = offsetof(struct image_check_opts, repair),
     .help = "free leaked space; with all, also put reference\ncounts right that are too low"},
    {.name = "format",
     .arg = "table|json",
     .parse = opt_choice,
     .choices = "table|json",
     .def = "table",
     .field = offsetof(struct image_check_opts, format),
     .help = "how to print the result"},
    {NULL},
};

#define FORMATS "raw|qcow2|vmdk|vdi|vhdx"

const struct opt_desc image_convert_opts[] = {
    {.name = "from",
     .arg = FORMATS,
     .parse = opt_choice,
     .choices = FORMATS,
     .field = offsetof(struct image_convert_opts, from),
     .help = "format of the source; without it the name decides"},
    {.name = "to",
     .arg = FORMATS,
     .parse = opt_choice,
     .choices = FORMATS,
     .field = offsetof(struct image_convert_opts, to),
     .help = "format of the target; without it the name decides,\nand else it is qcow2"},
    {.name = "cluster-size",
     .arg = "SIZE",
     .parse = opt_size,
     .field = offsetof(struct image_convert_opts, cluster_size),
     .help = "unit of allocation of a qcow2 target, 512B to 2M\n(64K unless given)"},
    {.name = "force",
     .letter = 'f',
     .parse = opt_flag,
     .field = offsetof(struct image_convert_opts, force),
     .help = "overwrite an existing target"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .field = offsetof(struct image_convert_opts, quiet),
     .help = "show no progress"},
    {NULL},
};
