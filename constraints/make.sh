#!/usr/bin/env bash
# Write the constraints of one Airflow: everything that it and this project's extras need, as it was on a day
# soon after that Airflow's release. Newer releases of its dependencies break an old Airflow.
#
#   constraints/make.sh 3.1.8 2026-03-14        needs uv (pip install uv)
set -euo pipefail
cd "$(dirname "$0")/.."
airflow=$1 day=$2
# This package is what makes one code run on all Airflows; it is the same, new one for each of them.
compat=apache-airflow-providers-common-compat
file=constraints/airflow-$airflow.txt
{
    echo "# Written by: constraints/make.sh $airflow $day"
    uv pip compile --quiet --no-header --no-annotate --python-version 3.11 --extra demo --extra dev \
        --exclude-newer "$day" --exclude-newer-package "$compat=2026-11-01" \
        --constraint <(echo "apache-airflow==$airflow") pyproject.toml
} > "$file.new"
mv "$file.new" "$file"
