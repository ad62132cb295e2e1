#!/usr/bin/env bash
# Write the constraints of one Airflow: everything that it and this project's extras need, as it was on a day
# soon after that Airflow's release. Newer releases of its dependencies break an old Airflow.
#
#   constraints/make.sh 3.1.8 2026-03-14          needs uv (pip install uv)
#   constraints/make.sh 3.3.2 2026-11-20 stores   with the extra of that name, in a file of its own
#   constraints/make.sh 3.3.2 2026-11-20 cluster  those of the cluster of `make cluster`, on Python 3.12
#
# One file serves every Python: its versions are those that the oldest one can have, and what only newer ones need
# is added. Where a newer Python can't have one of these versions, this ends with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
(($# >= 2)) || { echo "Say which Airflow and which day: constraints/make.sh 3.1.8 2026-03-14"; exit 1; }
command -v uv > /dev/null || { echo "uv is missing. Get it with: pip install uv"; exit 1; }
airflow=$1 day=$2 part=${3:-}
# The same, new ones for every Airflow: common-compat is what makes one code run on all of them; anyio before 4.16
# leaves a connection open that is cancelled as it comes up, which fails tests now and then; prices are to be new.
newer=(apache-airflow-providers-common-compat anyio typing-extensions genai-prices httpx2 httpcore2 truststore)
newer=("${newer[@]/%/=2026-11-20}")
pythons=(3.11 3.12)
[[ $airflow == 3.0.* ]] || pythons+=(3.13)  # Airflow 3.0 is not made for it
file=constraints/${part:-airflow}-$airflow.txt
wanted=(--extra=demo --extra=dev pyproject.toml)
case $part in
    cluster) pythons=(3.12) wanted=(pyproject.toml deploy/cluster/requirements.txt) ;;
    stores) wanted+=(--extra=stores) ;;
    *) [[ $airflow == 3.0.* ]] || wanted+=(--extra=databases) ;;  # DuckDB's provider needs Airflow 3.1
esac
new=$(mktemp -d)
trap 'rm -r "$new"' EXIT
echo "apache-airflow==$airflow" > "$new/all"
for python in "${pythons[@]}"; do
    uv pip compile --quiet --no-header --no-annotate --python-version "$python" \
        --exclude-newer "$day" "${newer[@]/#/--exclude-newer-package=}" \
        --constraint "$new/all" "${wanted[@]}" > "$new/more"
    LC_ALL=C sort --unique --field-separator== --key=1,1 --output "$new/all" "$new/all" "$new/more"
done
{ echo "# Written by: constraints/make.sh $*"; cat "$new/all"; } > "$file"
