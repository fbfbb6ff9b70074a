"""Images in folders, one folder per class."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effnet.data.images.intake import DENIED, HEAD, BadImage, is_image, what_else
from effnet.data.sources.base import Entry, Refused, Remarks, content_mark, make_key
from effnet.data.sources.files import existing_folder
from effnet.data.sources.groups import matched
from effnet.errors import ConfigError, DataError
from effnet.files import reason
from effnet.machine import raise_if_broken

# Files with these extensions are taken for images without a look inside; for others the first bytes decide.
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
)
_MAX_BYTES = 1 << 30
_MAX_DEPTH = 100  # of nested folders
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # errors of links that lead nowhere
# What operating systems leave behind, in lower case; so is everything whose name begins with a dot.
_LITTER = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r", "__macosx", "@eadir"))
_LITTER |= frozenset(("$recycle.bin", "lost+found"))
_NAMED = frozenset((".ds_store", ".ipynb_checkpoints"))  # hidden ones that are reported by name
# Names that people give to the folders of a split.
_SPLITS = dict.fromkeys(("train", "training"), "train")
_SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
_SPLITS |= dict.fromkeys(("test", "testing"), "test")


class _File(NamedTuple):
    """A file below a class's folder."""

    path: str
    size: int
    changed: int  # nanoseconds
    wrong: str = ""  # why it is not an image, if that is known before all of it is read


class ImageFolder:
    """`train/CLASS/**` and perhaps `val/CLASS/**`; `train` may also hold the splits' folders, `train`, `val`, `test`.

    Every file is an image, one that is refused, or litter that is passed over; all three are counted.
    """

    def __init__(self, train: Path, val: Path | None) -> None:
        self._notes: list[str] = []
        self._refused: list[Refused] = []
        self._passed_over: Counter[str] = Counter()
        self._paths: list[str] = []  # plain text: millions of Path objects are slow to make
        self._entries: list[Entry] = []
        self._roots: dict[str, str] = {}  # folder of each split's classes
        self._keys: set[str] = set()
        self._stamp = hashlib.sha256()
        train, val = self._understand(existing_folder(train), existing_folder(val) if val else None)
        if val and _inside(val, train):
            raise ConfigError(
                f"{val}: val: is the same folder as train:, or shares files with it; give val: a folder of its own"
            )
        found = {name: list(self._walk(train / name)) for name in self._class_folders(train)}
        names = [name for name, files in found.items() if not all(file.wrong for file in files)]
        if not names:
            loose = f", and {len(self._refused):,} files" if self._refused else ""
            raise ConfigError(f"{train}: no folders with images in it{loose}; one folder per class is expected")
        self._folder_of = dict(zip(map(_shown, names), names, strict=True))
        self.classes: Sequence[str] = tuple(self._folder_of)
        self.class_names = self.classes
        for name, files in found.items():
            self._add("train" if val else "", train, name, files)
        if val:
            self._add_val(val, train)

    def fingerprint(self) -> Mapping[str, Any]:
        """Return a digest of all files' names, sizes and times."""
        return {"source": "folder", "images": len(self._entries), "files": self._stamp.hexdigest()}

    def entries(self) -> Sequence[Entry]:
        """Return every image, by split, class and path."""
        return self._entries

    def remarks(self) -> Remarks:
        """Return the files that are no images of a class, what was passed over, and how the folders were understood."""
        return Remarks(self._refused, dict(sorted(self._passed_over.items())), self._notes)

    def mark(self, entry: Entry) -> bytes:
        """Return the mark of a file's bytes; of its name if it cannot be read, which `read` will report."""
        try:
            descriptor = os.open(self._paths[entry.file], os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise_if_broken(error)
            return hashlib.sha256(entry.key.encode()).digest()[:16]
        try:
            return content_mark(lambda offset, length: os.pread(descriptor, length, offset), entry.length)
        except OSError as error:
            raise _failed(self.describe(entry), error) from error
        finally:
            os.close(descriptor)

    def read(self, entry: Entry) -> bytes:
        """Return a file's bytes."""
        try:
            descriptor = os.open(self._paths[entry.file], os.O_RDONLY)
            try:
                data = os.read(descriptor, entry.length + 1)
                while len(data) <= entry.length and (more := os.read(descriptor, entry.length + 1)):
                    data += more
            finally:
                os.close(descriptor)
        except PermissionError:
            raise BadImage(DENIED) from None
        except OSError as error:
            raise _failed(self.describe(entry), error) from error
        if len(data) != entry.length:
            raise DataError(f"{self.describe(entry)}: changed while it was read; run the command again")
        return data

    def groups(self, rule: str) -> list[str]:
        """Return what a regular expression finds in each path below the split's folder: CLASS/.../FILE."""
        paths = [_shown(os.path.relpath(self._paths[entry.file], self._roots[entry.split])) for entry in self._entries]
        return matched(paths, rule, "their paths")

    def describe(self, entry: Entry) -> str:
        """Return the file's path."""
        return _shown(self._paths[entry.file])

    def close(self) -> None:
        """Nothing stays open."""

    def _understand(self, root: Path, val: Path | None) -> tuple[Path, Path | None]:
        """Return the folders of the splits: the given ones, or subfolders with the usual names."""
        folders = [path for path in _folders(root) if not _litter(path.name)]
        roles: dict[str, list[Path]] = {}
        for path in folders:
            roles.setdefault(_SPLITS.get(path.name.lower(), ""), []).append(path)
        if "" in roles or "train" not in roles:
            return root, val
        if twice := next((paths for paths in roles.values() if len(paths) > 1), None):
            names = " and ".join(f"'{path.name}'" for path in twice)
            raise ConfigError(f"{root}: contains both {names}; name the folders to use as train: and val:")
        train = roles["train"][0]
        if not _folders(train):
            raise ConfigError(f"{train}: no folders in it; one folder per class is expected")
        own = roles["val"][0] if "val" in roles else None
        self._notes.append(f"{_shown(str(root))}: train is its folder '{train.name}', {_told(own, val)}")
        used = {train.resolve(), (val or own or train).resolve()}
        for path in sorted(path for path in folders if path.resolve() not in used):
            number = sum(not file.wrong for file in self._walk(path, count=False))
            self._notes.append(
                f"{_shown(str(path))}: {number:,} images left out; to report on them, name the folder as val:"
            )
            self._stamp.update(os.fsencode(f"left out/{path.name}\0"))
        self._loose(root)
        return train, val or own

    def _class_folders(self, root: Path) -> list[str]:
        """Return the names of a split's class folders, sorted; what lies beside them is counted."""
        self._loose(root)
        names = sorted(path.name for path in _folders(root))
        for name in filter(_litter, names):
            self._passed_over[_litter(name)] += 1
        return [name for name in names if not _litter(name)]

    def _loose(self, root: Path) -> None:
        """Count the files of a folder that should hold nothing but folders."""
        with os.scandir(root) as items:
            found = sorted((item.name, item.path) for item in items if not _is_folder(item))
        for name, path in found:
            if litter := _litter(name):
                self._passed_over[litter] += 1
            else:
                self._refuse(_File(path, os.lstat(path).st_size, 0), "beside the class folders, so of no class")

    def _add_val(self, val: Path, train: Path) -> None:
        """Add the images of the validation folder, except those of classes that the training folder lacks."""
        before = len(self._entries)
        for name in self._class_folders(val):
            files = list(self._walk(val / name))
            if _shown(name) in self._folder_of:
                self._add("val", val, name, files)
            else:
                for file in files:
                    self._refuse(file, file.wrong or f"of a class that {_shown(str(train))} does not have")
        if len(self._entries) == before:
            raise DataError(
                f"{val}: val: has no images of the classes in train:; add some, or leave out val: to hold out a share "
                "of train:"
            )

    def _add(self, split: str, root: Path, name: str, files: Sequence[_File]) -> None:
        """Add a class's files: to the entries, or to what is refused."""
        self._roots[split] = str(root)
        label = {name: label for label, name in enumerate(self.classes)}.get(_shown(name))
        if not files:
            self._refuse(_File(str(root / name), 0, 0), "a class folder without files")
        for file in files:
            if label is None or file.wrong:
                self._refuse(file, file.wrong)
                continue
            relative = os.path.join(split, file.path[len(str(root)) + 1 :])
            key = make_key(os.path.splitext(relative)[0])
            if key in self._keys:  # a.jpg beside a.png
                key = make_key(relative)
            self._keys.add(key)
            self._entries.append(Entry(key, label, split, len(self._paths), 0, file.size))
            self._paths.append(file.path)
            self._note(relative, file)

    def _refuse(self, file: _File, kind: str) -> None:
        self._refused.append(Refused(_shown(file.path), kind, file.size))
        self._note(f"refused/{os.path.basename(file.path)}/{kind}", file)

    def _note(self, name: str, file: _File) -> None:
        self._stamp.update(os.fsencode(f"{name}\0{file.size}\0{file.changed}\0"))

    def _walk(self, folder: Path, *, count: bool = True) -> Iterator[_File]:
        """Yield every file below a folder, sorted, except litter, which is counted."""
        for path, litter in files_below(folder):
            if not litter:
                yield _look_at(path)
            elif count:
                self._passed_over[litter] += 1


def files_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, kind of litter or "") of all files below a folder, sorted, and of folders that cannot be opened.

    A link that leads back to the folder, or to one that it lies in, is not followed.
    """
    yield from _files(str(folder), tuple((each.st_dev, each.st_ino) for each in map(os.stat, folder.resolve().parents)))


def _files(folder: str, above: tuple[tuple[int, int], ...], depth: int = 0) -> Iterator[tuple[str, str]]:
    """Do what `files_below` does, in a folder that lies in those `above`.

    A link to one of the folders `above` is not followed: all of the data, or of the disk, would get into that class.
    """
    if depth >= _MAX_DEPTH:
        raise ConfigError(f"{_shown(folder[:200])}...: more than {_MAX_DEPTH} nested folders; move the images up")
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    try:
        with os.scandir(folder) as items:
            found = sorted(items, key=lambda item: item.name)
    except PermissionError:
        yield folder, ""
        return
    for item in found:
        if litter := _litter(item.name):
            yield item.path, litter
        elif _is_folder(item) and not (item.is_symlink() and _is_above(item.path, (*above, here))):
            yield from _files(item.path, (*above, here), depth + 1)
        else:
            yield item.path, ""


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a circular link, or one through a file or an unreadable folder: `_look_at` says which
        return False


def _is_above(link: str, above: tuple[tuple[int, int], ...]) -> bool:
    status = os.stat(link)
    return (status.st_dev, status.st_ino) in above


def _look_at(path: str) -> _File:
    """Return what can be said about a file from its name and, if that is unusual, from its first bytes."""
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno == errno.EACCES:
            return _File(path, 0, 0, DENIED)
        if error.errno in _NOWHERE:
            return _File(path, 0, 0, "a link that leads nowhere")
        raise
    file = _File(path, status.st_size, status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return file._replace(wrong="a folder that cannot be opened, or leads back to itself")
    if not stat.S_ISREG(status.st_mode):
        return file._replace(wrong="a pipe, socket or device")
    if status.st_size > _MAX_BYTES:
        return file._replace(wrong="larger than 1 GiB")
    return file if os.path.splitext(path)[1].lower() in EXTENSIONS else file._replace(wrong=_unusual(path))


def _unusual(path: str) -> str:
    """Return why a file without an image's extension is not an image; "" if its bytes are one."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except PermissionError:
        return DENIED
    return "" if is_image(head) else what_else(head)[0]


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()]


def _litter(name: str) -> str:
    """Return what kind of litter a file or folder of this name is; "" if it is none."""
    small = name.lower()
    if small in _LITTER or small in _NAMED:
        return name.strip()
    if name.startswith("._"):
        return "._*"
    return "hidden" if name.startswith(".") else ""


def _inside(one: Path, other: Path) -> bool:
    """Say whether two folders are the same, or one lies in the other."""
    first, second = one.resolve(), other.resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)


def _told(own: Path | None, val: Path | None) -> str:
    if val:
        return f"val is {val}, as val: says"
    return f"val its folder '{own.name}'" if own else "a share of it is held out as val"


def _shown(path: str) -> str:
    """Return a path as text that can be printed, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _failed(where: str, error: OSError) -> DataError:
    raise_if_broken(error)
    return DataError(f"{where}: {reason(error)}")
