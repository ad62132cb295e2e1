#!/usr/bin/env bash
# Write the constraints of one Airflow: everything that it and this project's extras need, as it was on a day
# soon after that Airflow's release. Newer releases of its dependencies break an old Airflow.
#
#   constraints/make.sh 3.1.8 2026-03-14        needs uv (pip install uv)
#   constraints/make.sh 3.3.2 2026-11-20 stores: with the extra of that name, in a file of its own
set -euo pipefail
cd "$(dirname "$0")/.."
airflow=$1 day=$2 more=${3:-}
# The same, new ones for every Airflow: common-compat is what makes one code run on all of them; anyio before 4.16
# leaves a connection open that is cancelled as it comes up, which fails tests now and then; prices are to be new.
newer=(apache-airflow-providers-common-compat anyio typing-extensions genai-prices httpx2 httpcore2 truststore)
newer=("${newer[@]/%/=2026-11-20}")
file=constraints/${more:-airflow}-$airflow.txt
{
    echo "# Written by: constraints/make.sh $airflow $day${more:+ $more}"
    uv pip compile --quiet --no-header --no-annotate --python-version 3.11 --extra demo --extra dev ${more:+--extra "$more"} \
        --exclude-newer "$day" "${newer[@]/#/--exclude-newer-package=}" \
        --constraint <(echo "apache-airflow==$airflow") pyproject.toml
} > "$file.new"
mv "$file.new" "$file"
