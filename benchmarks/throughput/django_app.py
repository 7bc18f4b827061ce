"""Django with django-sendfile2 and with django-downloadview, each set up for nginx as its documentation says."""

from __future__ import annotations

import os
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

FILES = os.environ["FILES"]
settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a benchmark",
    MEDIA_ROOT=FILES,
    MEDIA_URL="/media/",
    # What `django-admin startproject` sets, but for what needs a database.
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
        "django_downloadview.SmartDownloadMiddleware",
    ],
    INSTALLED_APPS=["django_downloadview"],
    SENDFILE_BACKEND="django_sendfile.backends.nginx",
    SENDFILE_ROOT=FILES,
    SENDFILE_URL="/download",
    DOWNLOADVIEW_BACKEND="django_downloadview.nginx.XAccelRedirectMiddleware",
    DOWNLOADVIEW_RULES=[{"source_dir": FILES, "destination_url": "/download"}],
)
django.setup()

from django_downloadview import PathDownloadView  # noqa: E402
from django_sendfile import sendfile  # noqa: E402


def by_sendfile(request: HttpRequest, name: str) -> HttpResponse:
    return sendfile(request, Path(FILES) / name)


class ByDownloadView(PathDownloadView):
    def get_path(self) -> str:
        return str(Path(FILES) / self.kwargs["name"])


urlpatterns = [
    path("sendfile/<name>", by_sendfile),
    path("downloadview/<name>", ByDownloadView.as_view(attachment=False)),
]
application = get_wsgi_application()
