# In the place of lvm, beside which it keeps what there is: lvs/NAME has the size and the tags of a
# logical volume, data/NAME its bytes, and dev/NAME is there while it is active. A file called
# fail names the command that fails, and while there is one called held all devices are open.
folder=${0%/*}
echo "$*" >> "$folder/asked"
cd "$folder"
command=$1
shift
name='' size='' tags='' active='' thin='' snapshot='' del=''
while [ $# -gt 0 ]; do
    case $1 in
    --) shift; break ;;
    --yes | --nosuffix | --ignoreactivationskip) shift; continue ;;
    --snapshot) snapshot=yes; shift; continue ;;
    --name) name=$2 ;;
    --size | --virtualsize) size=${2%b} ;;
    --thinpool) thin=$2 ;;
    --addtag) tags=$tags${tags:+,}$2 ;;
    --deltag) del=$2 ;;
    --activate) active=$2 ;;
    esac
    shift 2
done
if [ -e fail ] && [ "$(cat fail)" = "$command" ]; then
    echo "  $command: cut off" >&2
    exit 5
fi

# What others left on the disk.
old() {
    head -c "$1" /dev/zero | tr '\0' x
}

activate() {
    ln -sf "../data/$1" "dev/$1"
}

case $command in
pvs) echo '{"report":[{"pv":[{"pv_name":"/dev/sdz"}]}]}' ;;
vgs) echo '{"report":[{"vg":[{"vg_size":"1073741824","vg_free":"536870912","vg_extent_size":"4194304"}]}]}' ;;
lvs)
    rows=''
    if [ "${1#*/}" != "$1" ]; then
        rows='{"lv_name":"thin","lv_size":"1073741824","data_percent":"25.00","zero":"zero"}'
    else
        for path in lvs/*; do
            [ -e "$path" ] || continue
            one=${path#lvs/} open='' is=''
            [ ! -e "dev/$one" ] || is=active
            [ ! -e held ] || open=open
            { read -r size; read -r tags; } < "$path"
            rows=$rows${rows:+,}"{\"lv_name\":\"$one\",\"lv_size\":\"$size\",\"lv_tags\":\"$tags\","
            rows=$rows"\"lv_active\":\"$is\",\"lv_device_open\":\"$open\"}"
        done
    fi
    echo "{\"report\":[{\"lv\":[$rows]}]}"
    ;;
lvcreate)
    if [ -e "lvs/$name" ]; then
        echo "  Logical Volume \"$name\" already exists in volume group \"vg\"" >&2
        exit 5
    fi
    if [ -n "$snapshot" ]; then
        read -r size < "lvs/${1#*/}"
        cp "data/${1#*/}" "data/$name"
        touch thin
    elif [ -n "$thin" ]; then
        truncate -s "$size" "data/$name"
        touch thin
    else
        old "$size" > "data/$name"
    fi
    printf '%s\n%s\n' "$size" "$tags" > "lvs/$name"
    [ "$active" != y ] || activate "$name"
    ;;
lvextend)
    name=${1#*/}
    { read -r had; read -r tags; } < "lvs/$name"
    if [ -e thin ]; then
        truncate -s "$size" "data/$name"
    else
        old $((size - had)) >> "data/$name"
    fi
    printf '%s\n%s\n' "$size" "$tags" > "lvs/$name"
    ;;
lvchange)
    name=${1#*/}
    { read -r size; read -r had; } < "lvs/$name"
    [ "$active" != y ] || [ -e "data/$name.away" ] || activate "$name"
    had=${had:+$had${tags:+,}}$tags
    printf '%s\n%s\n' "$size" "$(echo "$had" | tr , '\n' | grep -vxF -- "${del:-none}" | paste -sd,)" > "lvs/$name"
    ;;
lvremove)
    for one; do
        rm "lvs/${one#*/}" "data/${one#*/}"
        rm -f "dev/${one#*/}"
    done
    ;;
lvrename)
    mv "lvs/$2" "lvs/$3"
    mv "data/$2" "data/$3"
    rm -f "dev/$2"
    activate "$3"
    ;;
*) exit 3 ;;
esac
