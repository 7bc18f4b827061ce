"""The tests of other people's suites that may end otherwise under the middleware: by suite, what is offered, and why.

All of `test_name` differ where it has parameters. docs/differences.md says the same to users.
"""

from __future__ import annotations

EXPECTED: dict[str, dict[str, dict[str, list[str]]]] = {
    "starlette": {
        "nothing": {},
        "other": {},
        "all": {
            "An If-Range with the app's ETag: the file has nginx's.": [
                "tests/test_responses.py::test_file_response_with_range_header",
            ],
            "A file that is not there: nginx answers 404.": [
                "tests/test_responses.py::test_file_response_with_missing_file_raises_error",
            ],
            "nginx writes the lines of a multipart in its own way, and does not merge or sort the ranges.": [
                "tests/test_responses.py::test_file_response_range_multi_head",
                "tests/test_responses.py::test_file_response_range_multi",
                "tests/test_responses.py::test_file_response_merge_ranges",
                "tests/test_responses.py::test_file_response_insert_ranges",
            ],
            "nginx has no limit on the number of ranges (`max_ranges`).": [
                "tests/test_responses.py::test_file_response_range_count_limit_exceeded",
            ],
            "nginx ignores a Range in another unit, or one that is empty: 200 for 400.": [
                "tests/test_responses.py::test_file_response_range_invalid",
                "tests/test_responses.py::test_file_response_only_support_bytes_range",
                "tests/test_responses.py::test_file_response_range_must_be_requested",
            ],
            "nginx answers 416 to a range that ends before its start: Starlette 400.": [
                "tests/test_responses.py::test_file_response_start_must_be_less_than_end",
                "tests/test_responses.py::test_file_response_inverted_single_byte_range",
            ],
            "nginx answers 416 where one of several ranges is malformed: Starlette leaves it out.": [
                "tests/test_responses.py::test_file_response_range_without_dash",
                "tests/test_responses.py::test_file_response_range_empty_start_and_end",
                "tests/test_responses.py::test_file_response_range_ignore_non_numeric",
            ],
        },
    },
    "fastapi": {"nothing": {}, "other": {}, "all": {}},
}
