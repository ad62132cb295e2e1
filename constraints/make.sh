#!/usr/bin/env bash
# Write the constraints of one Airflow: everything that it and this project's extras need, as it was on a day
# soon after that Airflow's release. Newer releases of its dependencies break an old Airflow.
#
#   constraints/make.sh 3.1.8 2026-03-14          needs uv (pip install uv)
#   constraints/make.sh 3.3.2 2026-11-20 stores   with the extra of that name, in a file of its own
#   constraints/make.sh 3.3.2 2026-11-20 cluster  those of the cluster of `make cluster`, on Python 3.12
set -euo pipefail
cd "$(dirname "$0")/.."
airflow=$1 day=$2 part=${3:-}
# The same, new ones for every Airflow: common-compat is what makes one code run on all of them; anyio before 4.16
# leaves a connection open that is cancelled as it comes up, which fails tests now and then; prices are to be new.
newer=(apache-airflow-providers-common-compat anyio typing-extensions genai-prices httpx2 httpcore2 truststore)
newer=("${newer[@]/%/=2026-11-20}")
python=3.11
file=constraints/${part:-airflow}-$airflow.txt
wanted=(--extra=demo --extra=dev pyproject.toml)
case $part in
    cluster) python=3.12 wanted=(pyproject.toml deploy/cluster/requirements.txt) ;;
    stores) wanted+=(--extra=stores) ;;
    *) [[ $airflow == 3.0.* ]] || wanted+=(--extra=databases) ;;  # DuckDB's provider needs Airflow 3.1
esac
{
    echo "# Written by: constraints/make.sh $*"
    uv pip compile --quiet --no-header --no-annotate --python-version "$python" \
        --exclude-newer "$day" "${newer[@]/#/--exclude-newer-package=}" \
        --constraint <(echo "apache-airflow==$airflow") "${wanted[@]}"
} > "$file.new"
mv "$file.new" "$file"
